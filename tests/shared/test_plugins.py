"""Plug-ins: kinds are found, misspelt ones are told, and a broken package takes nobody down."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import SerializeAsAny

from gobelin.shared import plugins
from gobelin.shared.errors import ConfigError
from gobelin.shared.plugins import Registry
from gobelin.shared.settings import Settings, check_settings, to_toml


class Shape(Settings):
    kind: str


class SquareTable(Shape):
    kind: Literal["square"] = "square"
    side: int = 1


class Square:
    Table: ClassVar[type[SquareTable]] = SquareTable


class CircleTable(Shape):
    kind: Literal["circle"] = "circle"
    radius: float


class Circle:
    Table: ClassVar[type[CircleTable]] = CircleTable


BUILTIN = {"square": f"{__name__}:Square"}
SHAPES: Registry[Square] = Registry("shape", "gobelin.test_shapes", BUILTIN)


class Drawing(Settings):
    shapes: dict[str, Annotated[SerializeAsAny[Shape], SHAPES.table()]]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    SHAPES.__dict__.pop("_installed", None)
    points = [
        EntryPoint("circle", f"{__name__}:Circle", SHAPES.group),
        EntryPoint("broken", "no.such.module:Thing", SHAPES.group),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)


def drawing(**shapes: object) -> Drawing:
    return check_settings(Drawing, {"shapes": shapes}, "drawing.toml")


def test_built_in_and_installed_kinds_read_their_own_keys() -> None:
    found = drawing(a={"kind": "square", "side": 2}, b={"kind": "circle", "radius": 0.5})
    assert found.shapes == {"a": SquareTable(side=2), "b": CircleTable(radius=0.5)}
    assert SHAPES.kinds == ["broken", "circle", "square"]
    assert "radius = 0.5" in to_toml(found)  # keys of the kind are written, too


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"kind": "square", "sid": 2}, r"shapes\.a\.unknown key 'sid'; did you mean 'side'"),
        ({"kind": "sqare"}, r"no shape 'sqare'.*did you mean 'square'"),
        ({"kind": "circle"}, r"shapes\.a\.radius: Field required"),
        ({"side": 2}, r"shapes\.a\.kind: name one of"),
        ({"kind": 3}, r"shapes\.a\.kind: name one of"),
        ({"kind": "broken"}, r"no\.such\.module:Thing cannot be loaded.*mend or remove"),
        ("square", r"shapes\.a: "),
    ],
)
def test_a_table_of_no_kind_says_where_and_what(table: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        drawing(a=table)

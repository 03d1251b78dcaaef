"""Every key of every TOML file: type, default, and what the code says that it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gobelin.client.home import NodeSettings
from gobelin.client.site_policy import SitePolicy
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.server.home import FederationSettings
from gobelin.shared.modality import MODALITIES
from gobelin.shared.objective import OBJECTIVES
from gobelin.shared.recipe import Recipe
from gobelin.shared.worldmodel.plan_settings import PlanSettings
from manual.comments import field_comments, one_line, table

HEAD = """# Configuration

All files are TOML. A key that is not known is an error, which names the nearest that is. What is
unset takes its default; lengths of time are in seconds (`_s`), sizes in megabytes of 10⁶ bytes
(`_mb`).

"""
FILES: dict[str, tuple[type[BaseModel], str]] = {
    "federation.toml": (
        FederationSettings,
        "In the aggregator's home; `gobelin aggregator init` writes it. "
        "A change holds when `gobelin aggregator up` is started again.",
    ),
    "node.toml": (
        NodeSettings,
        "In the node's home; `gobelin node join` writes it. "
        "A change holds when `gobelin node run` is started again.",
    ),
    "policy.toml": (
        SitePolicy,
        "Beside `node.toml`, written by whoever answers for the data, and read again for every "
        "plan and departure: [What leaves a node](../egress.md).",
    ),
    "BUILD.toml": (
        BuildSettings,
        "Of `gobelin sovereign build`; `gobelin sovereign example` prints one: "
        "[Sovereign builds](../sovereign.md).",
    ),
    "PLAN.toml": (PlanSettings, "Of `gobelin worldmodel plan`."),
}


def page() -> str:
    """The page of all files but recipes."""
    parts = [HEAD]
    for name, (kind, about) in FILES.items():
        parts.append(f"## {name}\n\n{about}\n\n{_tables(kind)}")
    return "".join(parts)


def recipes() -> str:
    """The page of what a recipe may say: its tables, and those of every kind that is built in."""
    parts = ["# Recipes\n\n", RECIPES, "## The tables of a recipe\n\n", _tables(Recipe)]
    for title, registry, where in (
        ("Modalities", MODALITIES, "modalities.NAME"),
        ("Objectives", OBJECTIVES, "objective"),
    ):
        parts.append(f"## {title}\n\n")
        for kind in sorted(registry.builtin):
            loaded: Any = registry.load(kind)
            parts.append(f"### `{kind}`\n\n{one_line(loaded.__doc__)}\n\n")
            parts.append(_tables(loaded.Table, where, level=4))
    return "".join(parts)


RECIPES = """A recipe fixes what all nodes have to have alike: modalities, model, objective, inner
optimizer. `gobelin aggregator init --recipe NAME` takes one that is built in, or a path. Kinds of
modality and of objective may come [from packages](../extending.md), and then have keys of their
own.

"""


def tables(kind: type[BaseModel], where: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A settings class and those of the tables in it, by the table's name."""
    yield where, kind
    for name, field in kind.model_fields.items():
        for below in _tables_of(field):
            yield from tables(below, f"{where}.{name}" if where else name)


def keys(kind: type[BaseModel]) -> list[str]:
    """The keys of a table that are no tables themselves."""
    return [name for name, field in kind.model_fields.items() if not _tables_of(field)]


def _tables_of(field: FieldInfo) -> list[type[BaseModel]]:
    options = (field.annotation, *get_args(field.annotation))
    return [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]


def _tables(kind: type[BaseModel], where: str = "", level: int = 3) -> str:
    parts = []
    for name, of in tables(kind, where):
        if name:
            parts.append(f"{'#' * level} `[{name}]`\n\n{one_line(of.__doc__)}\n\n")
        rows = _rows(of)
        parts.append(table(("key", "type", "default", "meaning"), rows) if rows else "")
    return "".join(parts)


def _rows(kind: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    comments = field_comments(kind)
    schema = kind.model_json_schema()
    shared = schema.get("$defs", {})
    rows = []
    for name in keys(kind):
        field = kind.model_fields[name]
        told = schema["properties"][name]
        default = (
            "required"
            if field.is_required()
            else _value(field.get_default(call_default_factory=True))
        )
        rows.append((f"`{name}`", _type(told, shared), default, one_line(comments.get(name, ""))))
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return ""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return f"`{text}`"


def _type(told: dict[str, Any], shared: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in told:
        return _type(shared.get(told["$ref"].rpartition("/")[2], {}), shared)
    for several in ("anyOf", "oneOf"):
        if several in told:
            kinds = [_type(one, shared) for one in told[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in told:
        return " or ".join(f"`{value}`" for value in told["enum"])
    if "const" in told:
        return f"`{told['const']}`"
    if told.get("type") == "array":
        items = told.get("items") or (told.get("prefixItems") or [{}])[0]
        return f"list of {_type(items, shared)}"
    name = {"integer": "whole number", "boolean": "true or false", "string": "text"}.get(
        told.get("type", ""), told.get("type", "table")
    )
    name = "path" if told.get("format") == "path" else name
    bounds = {"minimum": "≥", "exclusiveMinimum": "gt", "maximum": "≤", "exclusiveMaximum": "lt"}
    signs = {"gt": "&gt;", "lt": "&lt;"}
    limits = [f"{signs.get(s, s)} {told[key]:g}" for key, s in bounds.items() if key in told]
    return f"{name} {', '.join(limits)}".strip()

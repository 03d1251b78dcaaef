"""A plan that is none, or of another base, is refused before anything is trained or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import (
    ConfigError,
    ContributionError,
    DataError,
    NamesError,
    NotFiniteError,
    ShapeError,
    StateError,
)
from gobelin.shared.model import build_jepa
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import (
    BASE,
    RECIPE,
    Node,
    home_at,
    in_spool,
    plan,
)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return home_at(tmp_path)


def refused(home: NodeHome, asked: RoundPlan, segments: dict[str, bytes]) -> Contributor:
    node = Node(home)
    try:
        in_spool(node.contributor, asked, segments)
    finally:
        assert node.statuses == []
        assert not home.spool.exists()
    return node.contributor


def test_a_base_the_plan_does_not_name_is_refused(home: NodeHome) -> None:
    with pytest.raises(ContributionError, match="base"):
        refused(home, plan(1, BASE, base_digest="0" * 64), BASE.segments())
    other = ParameterVector.of(build_jepa(RECIPE, seed=1))
    with pytest.raises(ContributionError, match="base"):
        refused(home, plan(1, BASE), other.segments())


def test_a_schema_the_recipe_does_not_build_is_refused(home: NodeHome) -> None:
    with pytest.raises(ContributionError, match="schema"):
        refused(home, plan(1, BASE, schema_digest="0" * 64), BASE.segments())


def test_another_federation_is_refused_for_ever(home: NodeHome) -> None:
    Node(home)(plan(1, BASE), BASE)
    node = Node(home)
    with pytest.raises(StateError, match="'fed'"):
        node(plan(1, BASE, federation="other"), BASE)
    assert node.statuses == []
    assert home.pinned("federation") == "fed"


BAD_RECIPES = {
    "no JSON": "{",
    "empty": "",
    "a list": "[]",
    "null": "null",
    "no recipe": "{}",
    "unknown key": json.dumps({**json.loads(RECIPE.canonical()), "code": "import os"}),
    "wrong sizes": RECIPE.canonical().replace('"heads":2', '"heads":3'),
    "not finite": RECIPE.canonical().replace('"lr":0.001', '"lr":Infinity'),
}


@pytest.mark.parametrize("recipe", BAD_RECIPES.values(), ids=list(BAD_RECIPES))
def test_a_recipe_that_is_none_is_refused(recipe: str, home: NodeHome) -> None:
    assert recipe != RECIPE.canonical()
    with pytest.raises(ContributionError, match="recipe"):
        refused(home, plan(1, BASE, recipe=recipe), BASE.segments())


def test_a_recipe_nested_without_end_is_refused(home: NodeHome) -> None:
    with pytest.raises(ContributionError):
        refused(home, plan(1, BASE, recipe="[" * 100_000), BASE.segments())


def test_a_plan_without_steps_is_refused(home: NodeHome) -> None:
    with pytest.raises(ContributionError):
        Node(home)(plan(1, BASE, local_steps=0), BASE)


def test_segments_that_are_not_the_recipes_are_refused(home: NodeHome) -> None:
    good = BASE.segments()
    name, data = next(iter(good.items()))
    for wrong, error in (
        ({}, NamesError),
        ({**good, "more": b""}, NamesError),
        ({**good, name: data[:-4]}, ShapeError),
        ({**good, name: b"\xff" * len(data)}, NotFiniteError),
    ):
        with pytest.raises(error):
            refused(home, plan(1, BASE), wrong)


def test_data_that_went_missing_is_a_data_error(home: NodeHome, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        refused(home, plan(1, BASE), BASE.segments())
    (tmp_path / "moved").rename(tmp_path / "data")
    assert Node(home)(plan(1, BASE), BASE).delta.norm() > 0


def test_a_device_this_machine_lacks_is_a_config_error(tmp_path: Path) -> None:
    home = home_at(tmp_path, device="cuda:99")
    with pytest.raises(ConfigError, match="cuda:99"):
        refused(home, plan(1, BASE), BASE.segments())

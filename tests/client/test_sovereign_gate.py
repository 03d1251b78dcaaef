"""The gate: what a floor is judged on, and what is said of a broken one."""

from __future__ import annotations

import pytest

from gobelin.client.sovereign.gate import Floors, GateError, broken, judge, require_kept
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.intervals import Interval
from gobelin.shared.settings import check_settings, parse_settings

FIGURES = {
    "accuracy": Interval(82.0, 79.0, 85.0),
    "gain_over_consensus": Interval(3.0, -0.5, 6.5),
    "points_lost_general": Interval(1.0, 0.2, 2.4),
    "ece": Interval(4.0, 3.0, 6.0),
}


def test_a_floor_is_judged_on_the_bound_that_speaks_against_the_build() -> None:
    asked = {"min_accuracy": 80.0, "max_points_lost_general": 2.0, "min_gain_over_consensus": 0.0}
    for on, holds in (("bound", [False, False, False]), ("estimate", [True, True, True])):
        floors = Floors.model_validate({"judged_on": on, **asked})
        found = {each.floor: each for each in judge(FIGURES, floors)}
        assert [found[name].holds for name in asked] == holds


def test_a_floor_met_to_the_digit_holds() -> None:
    found = judge(FIGURES, Floors(min_accuracy=79.0, max_ece=6.0))
    assert [each.short for each in found] == [0, 0]
    assert not broken(found)
    require_kept(found, "report.html")


def test_a_broken_floor_says_which_and_by_how_much() -> None:
    found = judge(FIGURES, Floors(min_accuracy=80, max_ece=5))
    with pytest.raises(GateError) as refused:
        require_kept(found, "region/report.html")
    assert refused.value.exit_code == 66
    said = str(refused.value)
    assert "min_accuracy = 80: the lower bound is 79, off by 1" in said
    assert "max_ece = 5: the upper bound is 6, off by 1" in said
    assert "region/report.html" in said


def test_what_was_not_measured_does_not_hold() -> None:
    found = judge(FIGURES, Floors(min_auroc=1))
    assert not found[0].holds
    assert found[0].short is None
    assert "nothing of it was measured" in found[0].text


def test_no_floors_break_nothing() -> None:
    assert judge(FIGURES, Floors()) == []


def test_a_misspelt_floor_is_told_its_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'min_accuracy'"):
        parse_settings(Floors, "min_acuracy = 80", where="[gate]")


def test_a_floor_that_an_older_package_names_unset_asks_nothing() -> None:
    told = {"judged_on": "bound", "min_accuracy": 80.0, "min_success": None}
    assert check_settings(Floors, told, "the package's own gate").asked == {"min_accuracy": 80.0}
    with pytest.raises(ConfigError, match="min_success"):
        check_settings(Floors, {"min_success": 50.0}, "[gate]")

"""The premium compares models that have seen as much, and says how much that is."""

from __future__ import annotations

import pytest

from gobelin.client.shadow.premium import Point, half_width, premium_of, premiums

CONSENSUS = [Point(1, 0, 40.0), Point(2, 100, 60.0), Point(3, 200, 70.0), Point(4, 300, 75.0)]


def test_the_consensus_is_taken_where_the_solo_model_is() -> None:
    premium = premium_of(CONSENSUS, [Point(5, 150, 61.0)], contributed=400, held_out=100)
    assert premium is not None
    assert (premium.consensus, premium.solo, premium.points) == (65.0, 61.0, 4.0)
    assert (premium.samples, premium.of, premium.seen) == (150, 400, 0.375)
    assert premium.today == 14.0  # what a comparison without care would call the premium


def test_nothing_is_extrapolated() -> None:
    ahead = [Point(5, 150, 61.0), Point(12, 350, 80.0)]
    premium = premium_of(CONSENSUS, ahead, contributed=400, held_out=100)
    assert premium is not None
    assert premium.samples == 150
    assert premium_of(CONSENSUS[:1], ahead, 400, 100) is None
    assert premium_of([], ahead, 0, 100) is None


def test_the_common_start_is_no_premium() -> None:
    assert premiums(CONSENSUS, [Point(0, 0, 40.0)]) == []


def test_a_base_that_was_not_looked_at_leaves_a_line() -> None:
    sparse = [CONSENSUS[0], CONSENSUS[3]]
    ((_, beside),) = premiums(sparse, [Point(5, 150, 61.0)])
    assert beside == pytest.approx(57.5)


def test_the_error_falls_with_the_held_out_samples_and_is_never_none() -> None:
    widths = [half_width(60, 50, n) for n in (25, 100, 400)]
    assert widths[0] > widths[1] > widths[2] > 0
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.02)
    assert half_width(100, 100, 50) > 0
    assert half_width(60, 50, 100) == pytest.approx(13.6, abs=0.2)  # 1.96 √(.24 + .25) / 10

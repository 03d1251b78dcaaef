"""Freshness: what a late contribution counts for, exactly, and that nothing is gained by it."""

from __future__ import annotations

import decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.server.aggregation import ByMember, InMemory
from gobelin.server.merge import Counted, Merged, Merger
from gobelin.server.policy import FRESH, freshness

LATENESS = st.integers(0, 12)
OWNED = st.lists(st.tuples(st.sampled_from("abcd"), LATENESS), min_size=1, max_size=9)


def merge_of(contributions: list[tuple[str, int]], cap: float = 1.0) -> Merged:
    generator = torch.Generator().manual_seed(len(contributions))
    deltas = InMemory([torch.randn(5, generator=generator) for _ in contributions])
    counted = [Counted(owner, freshness=freshness(s, 0.5)) for owner, s in contributions]
    return Merger(cap=cap).merge(deltas, counted, {})


def test_the_square_root_law_to_the_last_bit() -> None:
    expected = [1048576, 741455, 605396, 524288, 468937]
    assert [freshness(s, 0.5) * FRESH for s in range(5)] == expected


@given(st.integers(0, 50), st.floats(0, 4))
def test_fresher_never_counts_less_and_nothing_counts_more_than_fresh(
    staleness: int, decay: float
) -> None:
    share = freshness(staleness, decay)
    assert freshness(staleness + 1, decay) <= share <= freshness(0, decay) == 1
    assert float(share) == pytest.approx((1 + staleness) ** -decay, abs=1e-6)
    with decimal.localcontext(prec=3, rounding=decimal.ROUND_UP):
        assert freshness(staleness, decay) == share


@settings(max_examples=200)
@given(OWNED, st.floats(0.05, 1))
def test_lateness_lifts_nobody_over_the_cap_and_no_late_member_over_a_fresh_one(
    contributions: list[tuple[str, int]], cap: float
) -> None:
    merged = merge_of(contributions, cap)
    best = {name: min(s for owner, s in contributions if owner == name) for name in merged.weights}
    assert all(0 < weight <= Fraction(cap) for weight in merged.weights.values())
    for one, other in zip(sorted(best, key=best.__getitem__), list(best)[1:], strict=False):
        if best[one] <= best[other]:
            assert merged.weights[one] >= merged.weights[other]
    if cap < 1:
        assert all(row["influence"] <= cap for row in merged.members.values())


@settings(max_examples=100)
@given(OWNED, st.integers(1, 4), LATENESS)
def test_a_member_gains_nothing_by_more_contributions(
    contributions: list[tuple[str, int]], more: int, staleness: int
) -> None:
    """Only a fresher one than it had makes a member count for more."""
    before = merge_of(contributions).weights
    had = [s for owner, s in contributions if owner == "a"]
    if had:
        after = merge_of([*contributions, *[("a", max(staleness, *had))] * more]).weights
        assert after == before


def test_contributions_of_a_member_share_its_delta_by_freshness() -> None:
    deltas = InMemory([torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0]), torch.ones(2)])
    by_member = ByMember(deltas, [[0, 1], [2]], [Fraction(1), Fraction(1, 3), Fraction(1, 7)])
    assert by_member.piece(0, 0, 2).tolist() == [3.0, 1.0]
    assert torch.equal(by_member.piece(1, 0, 2), torch.ones(2))


def test_equally_late_contributions_are_averaged_as_fresh_ones_are() -> None:
    generator = torch.Generator().manual_seed(1)
    deltas = InMemory([torch.randn(9, generator=generator) for _ in range(3)])
    late = ByMember(deltas, [[0, 1, 2]], [freshness(2, 0.5)] * 3)
    fresh = ByMember(deltas, [[0, 1, 2]], [Fraction(1)] * 3)
    assert torch.equal(late.piece(0, 0, 9), fresh.piece(0, 0, 9))

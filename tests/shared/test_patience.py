"""Patience: soon at first, seldom later, never beyond the bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.patience import pause

WAITED = st.floats(0, 1e6)


@given(WAITED, WAITED)
def test_who_has_waited_longer_pauses_no_shorter_and_within_the_bounds(a: float, b: float) -> None:
    short, long = sorted((a, b))
    assert 0.05 <= pause(short, 0.05, 0.5) <= pause(long, 0.05, 0.5) <= 0.5


def test_what_comes_is_found_an_eighth_later_at_most() -> None:
    assert pause(2.0, 0.05, 0.5) == 0.25

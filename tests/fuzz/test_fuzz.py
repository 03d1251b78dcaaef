"""No bytes from elsewhere end a process: they are parsed, or refused by a typed error.

Hypothesis draws seeds, each of which spoils an example in so many ways. CI's sample is small;
`-m slow` is a hundred times it, and `python -m bench.fuzz` takes any number of inputs.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import Target, spoil, targets

TARGETS = targets()
SPOILT = 25  # inputs an example of hypothesis'
EXAMPLES = 26
LEAST = 20_000  # inputs in CI
SEEDS = st.integers(0, 2**32)


def fuzz(target: Target, seed: int) -> None:
    for number in range(SPOILT):
        example = target.examples[number % len(target.examples)]
        target.survives(spoil(example, seed * SPOILT + number))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_spoilt_is_refused_by_name(target: Target) -> None:
    for example in target.examples:
        target.parse(example)  # it is taken while it is whole
    settings(max_examples=EXAMPLES, database=None)(given(SEEDS)(lambda s: fuzz(target, s)))()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_spoilt_is_refused_by_name_a_hundred_times_over(target: Target) -> None:
    settings(max_examples=100 * EXAMPLES, database=None)(given(SEEDS)(lambda s: fuzz(target, s)))()


def test_there_are_enough_inputs() -> None:
    assert len(TARGETS) * EXAMPLES * SPOILT >= LEAST

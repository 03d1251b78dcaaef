"""The schedule: rounds follow each other without a gap, the first with one local step each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.schedule import Schedule


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 39))
def test_rounds_follow_each_other_from_the_first_step_to_the_last(
    rounds: int, local_steps: int, warm: int
) -> None:
    schedule, step = Schedule(rounds, local_steps, warm), 0
    for number in range(1, rounds + 1):
        assert schedule.first_step(number) == step
        assert schedule.steps_of(number) == (1 if number <= warm else local_steps)
        step += schedule.steps_of(number)
    assert schedule.total_steps == step


def test_without_a_warmup_all_rounds_have_h_steps() -> None:
    schedule = Schedule(rounds=9, local_steps=10)
    assert (schedule.first_step(3), schedule.total_steps) == (20, 90)


def test_a_warmup_that_outlasts_the_rounds_is_all_of_them() -> None:
    assert Schedule(rounds=3, local_steps=10, warmup_rounds=7).total_steps == 3

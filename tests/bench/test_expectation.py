"""The bench of expectation: batches are a function of the step, its table tells every figure."""

from __future__ import annotations

import torch

from bench.expectation import TESTED, run_job, values_of, windows
from bench.world_tables import expectation_table


def test_batches_are_windows_of_the_world_and_a_function_of_the_step() -> None:
    of_step = windows(seed=0, episodes=20, steps=6, batch=8)
    one, again, other = of_step(3), of_step(3), of_step(4)
    assert one.observations.shape == (8, 7, 1, 32, 32)
    assert one.actions.shape == (8, 6, 2)
    assert torch.equal(one.observations, again.observations)
    assert not torch.equal(one.observations, other.observations)
    # where the dot is lies one action from where it was, unless something was in the way
    place = one.observations.flatten(2).argmax(dim=2)
    moved = torch.stack([place % 32, place // 32], dim=-1).diff(dim=1) / 32
    assert float((moved - one.actions).norm(dim=-1).median()) < 0.05


def test_the_table_has_a_row_for_every_violation_trained_and_not() -> None:
    found = run_job((0, 0))
    facts = {"recipe": "two_room", "steps": 0, "seeds": [0], "machine": "m", "goal": "g"}
    facts |= {"episodes": TESTED.episodes, "around": TESTED.around}
    page = expectation_table(facts | values_of([found], [found]))
    for name in found:
        assert f"| {name} |" in page
        assert f"| {name}, untrained |" in page

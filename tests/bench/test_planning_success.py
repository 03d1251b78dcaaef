"""The bench of planning success: films, hindsight, intervals, and a table of every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from pydantic_core import to_json

from bench.cloning import Cloner, clone, cloned_policy
from bench.planning_success import Ended, Found, figures, wilson
from bench.planning_worlds import Film, reacher_task, two_room_task
from bench.world_tables import planning_success_table
from gobelin.shared.evaluation.planning import Outcome, drive
from gobelin.shared.recipe import load_recipe
from gobelin.shared.worlds import Reacher, TwoRoom


def film(depth: int) -> Film:
    """Two episodes of four actions; a picture's one pixel says its episode and its time."""
    number = np.arange(2)[:, None] * 10 + np.arange(5)
    actions = np.float32(number[:, :4, None] * [1, -1])
    return Film(number.astype(np.uint8)[:, :, None, None], actions, depth)


def test_an_observation_is_the_last_pictures_and_the_first_stands_for_what_was_before() -> None:
    seen = film(3).seen(np.array([[1]]), np.array([[0, 1, 4]]))
    assert seen.flatten(2).tolist() == [[[10, 10, 10], [11, 10, 10], [14, 13, 12]]]
    still = film(3).seen(np.array([[1]]), np.array([[4]]), still=True)
    assert still.flatten().tolist() == [14, 14, 14]


def test_windows_carry_the_actions_between_their_observations() -> None:
    batch = film(1).windows(seed=0, steps=2, batch=6)(3)
    first = batch.observations[:, :-1].flatten(1).float()
    assert torch.equal(batch.actions[..., 0], first)
    assert torch.equal(batch.observations.flatten(1).diff(dim=1), torch.ones(6, 2).byte())


def test_hindsight_goals_come_later_in_the_same_episode() -> None:
    seen, goals, actions = film(1).hindsight(seed=0, step=1, batch=64)
    now, then = seen.flatten().int(), goals.flatten().int()
    assert bool((now < then).all())
    assert torch.equal(now // 10, then // 10)
    assert torch.equal(actions[:, 0].int(), now)


@pytest.mark.parametrize(("hits", "tries"), [(0, 50), (25, 50), (50, 50)])
def test_an_interval_holds_the_share_and_stays_within_bounds(hits: int, tries: int) -> None:
    low, high = wilson(hits, tries)
    assert -1e-9 <= low <= 100 * hits / tries <= high <= 100 + 1e-9
    assert wilson(25, 50) == pytest.approx((36.6, 63.4), abs=0.1)  # the textbook's


def test_cloning_learns_what_leads_somewhere_and_acts_within_bounds() -> None:
    world, recipe = TwoRoom(), load_recipe("two_room")
    shown = world.episodes(40, 6, seed=0)
    pictures = world.render(shown.positions.reshape(-1, 2)).reshape(40, 7, 32, 32)
    cloner = clone(recipe, Film(pictures, shown.actions), world, seed=0, steps=2)
    assert isinstance(cloner, Cloner)
    task = two_room_task(0, 3)
    actions = cloned_policy(cloner, world, task)(task.starts)
    assert actions.shape == (3, 2)
    assert 0 < np.abs(actions).max() <= world.max_step


def test_arms_are_asked_from_rest_to_rest_and_a_perfect_policy_is_counted() -> None:
    world, task = Reacher(), reacher_task(0, 4)
    assert not task.starts[:, 2:4].any()
    there = drive(world, reacher_task(0, 4), lambda at: np.zeros((4, 2), np.float32))
    assert there.success == 0
    task.starts[:2] = task.goals[:2]
    done = drive(world, task, lambda at: np.zeros((4, 2), np.float32))
    assert done.reached.tolist() == [True, True, False, False]


def test_what_a_part_found_is_kept_between_runs() -> None:
    found = Found({"planning": Ended((True, False), (3, 40))}, 1.5, 2.5)
    form = TypeAdapter(Found)
    assert form.validate_json(to_json(found)) == found


def test_the_table_has_a_row_for_every_baseline() -> None:
    made = Ended.of(Outcome(np.array([True, False]), np.array([3, 40]), np.zeros((2, 2))))
    rows = dict.fromkeys(("planning", "solver", "cloning", "random"), made)
    values = figures("easy", [rows, rows])
    assert values["easy"]["mean"] == 50
    assert values["easy.random.by_seed"] == [50, 50]
    assert values["easy.cloning.interval"] == wilson(2, 4)
    values |= {
        "cases": ["easy"], "seeds": [0, 1], "episodes": 2, "goal": "g", "machine": "m",
        "easy.recipe": "two_room", "easy.steps": 1, "easy.training_s": {"mean": 1, "sd": 0},
    }  # fmt: skip
    page = planning_success_table(values)
    assert page.count("| easy: ") == 4
    assert "| 50.0 ± 0.0 | 15 to 85 | 50 50 |" in page

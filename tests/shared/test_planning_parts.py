"""What planners are made of: costs, guardrails, noise, weights; control; the slow level."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.planning import (
    PLANNERS,
    ActionSpace,
    Cem,
    Controller,
    Effort,
    Held,
    Hierarchy,
    Icem,
    KeepOut,
    KeepWithin,
    Mppi,
    Planner,
    Problem,
    SlowModel,
    Sum,
    ToGoal,
    plan,
)
from gobelin.shared.planning.control import shifted
from gobelin.shared.planning.judged import Judged
from gobelin.shared.planning.noise import Noise
from gobelin.shared.planning.sampling import path_weights
from tests.shared.linear_world import LinearWorld

STEP = 0.3
WALKER = LinearWorld.walker(step=STEP)
SPACE = ActionSpace.symmetric(2)


def of(horizon: int = 6, goal: Tensor | None = None) -> Problem:
    goal = torch.zeros(1, 2) if goal is None else goal
    return Problem(WALKER, torch.zeros(len(goal), 2), ToGoal(goal), SPACE, horizon)


def where(x: Tensor) -> Tensor:
    return x


def test_costs_add_up() -> None:
    goal, actions = torch.tensor([[1.0, 0.5]]), torch.ones(1, 2, 6, 2)
    latents = WALKER.rollout(torch.zeros(1, 2), actions)
    cost = Sum([ToGoal(goal), Effort(0.1)])
    assert torch.allclose(cost(latents, actions), ToGoal(goal)(latents, actions) + 0.1)


def test_each_step_towards_the_goal_counts_where_asked() -> None:
    latents = torch.zeros(1, 1, 4, 2)
    cost = ToGoal(torch.ones(1, 2), every_step=True)(latents, torch.zeros(1, 1, 4, 2))
    assert float(cost) == pytest.approx(4.0)


def test_a_box_is_broken_by_how_deep_a_plan_goes() -> None:
    box = KeepOut(where, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]), margin=0.1)
    path = torch.tensor([[[[-1.0, 0.5], [0.3, 0.5]], [[-1.0, 0.5], [-0.2, 0.5]]]])
    assert box(path, path).tolist()[0] == pytest.approx([0.4, -0.1])


def test_a_step_over_a_thin_wall_is_seen_where_the_way_is_watched() -> None:
    low, high = torch.tensor([0.45, -1.0]), torch.tensor([0.55, 1.0])
    path = torch.tensor([[[[0.2, 0.0], [0.8, 0.0]]]])
    assert float(KeepOut(where, low, high)(path, path)) < 0
    assert float(KeepOut(where, low, high, between=3)(path, path)) == pytest.approx(0.05)


def test_leaving_a_box_is_broken_by_how_far() -> None:
    room = KeepWithin(where, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]), margin=0.1)
    path = torch.tensor([[[[0.5, 0.5], [0.5, 1.2]], [[0.5, 0.5], [0.2, 0.5]]]])
    assert room(path, path).tolist()[0] == pytest.approx([0.3, -0.1])


@given(colour=st.floats(0, 3), horizon=st.integers(1, 24))
@settings(max_examples=20, deadline=None)
def test_coloured_noise_has_unit_variance(colour: float, horizon: int) -> None:
    noise = Noise(of(horizon), 0).coloured(4000, colour)
    assert noise.shape == (1, 4000, horizon, 2)
    assert float(noise.square().mean()) == pytest.approx(1, abs=0.1)


def test_red_noise_changes_slowly() -> None:
    rough, smooth = (Noise(of(20), 0).coloured(500, c).diff(dim=2).std() for c in (0, 2))
    assert smooth < rough / 2


def judged(cost: list[float], violation: list[float]) -> Judged:
    shape = (1, len(cost))
    return Judged(
        torch.arange(float(len(cost))).view(*shape, 1, 1),
        torch.tensor(cost).view(shape),
        torch.tensor(violation).view(shape),
        guarded=any(violation),
    )


def test_the_allowed_come_first_then_the_least_broken() -> None:
    order = judged([3, 1, 2, 0], [0, 0.5, 0, 0.1]).best_first(4)
    assert order.actions.flatten().tolist() == [2, 0, 3, 1]
    assert judged([3, 1, 2, 0], [0] * 4).best_first(2).actions.flatten().tolist() == [3, 1]


def test_of_two_bests_an_allowed_one_wins_whatever_it_costs() -> None:
    broken, kept = judged([0], [0.5]), judged([9], [0])
    kept = Judged(kept.actions + 7, kept.cost, kept.violation, guarded=True)
    assert float(broken.winner(kept).cost) == float(kept.winner(broken).cost) == 9
    assert float(broken.winner(None).cost) == 0


def test_paths_weigh_by_their_cost_in_standard_deviations() -> None:
    """w ∝ exp(−(c − c_min) / (τ σ)): divided by the temperature, not multiplied."""
    cost = [1.0, 2.0, 4.0]
    spread = torch.tensor(cost).std(correction=0)
    plain = [math.exp(-(c - 1) / (0.5 * float(spread))) for c in cost]
    expected = [w / sum(plain) for w in plain]
    assert path_weights(judged(cost, [0] * 3), 0.5)[0].tolist() == pytest.approx(expected)
    scaled = path_weights(judged([100 * c for c in cost], [0] * 3), 0.5)[0].tolist()
    assert scaled == pytest.approx(expected)


def test_what_breaks_a_constraint_weighs_nothing_beside_what_keeps_it() -> None:
    assert path_weights(judged([1, 2, 0], [0, 0, 0.1]), 1.0)[0, 2] == 0
    every = path_weights(judged([1, 2, 0], [0.1, 0.2, 0.3]), 1.0)[0]
    assert every.sum() == pytest.approx(1)
    assert every[0] > every[1] > every[2] > 0


def test_an_action_held_is_that_action_again() -> None:
    actions = torch.randn(2, 3, 4, 2)
    latents = Held(WALKER, 3).rollout(torch.zeros(2, 2), actions)
    assert latents.shape == (2, 3, 12, 2)
    assert torch.allclose(latents[:, :, 2], 3 * STEP * actions[:, :, 0], atol=1e-6)


# ------------------------------------------------------------------------------ control


def test_control_closes_the_loop_on_a_world_its_model_gets_wrong() -> None:
    """The world moves two thirds as far as the model says: planning again makes up for it."""
    goal, state = torch.tensor([[0.9, -0.6]]), torch.zeros(1, 2)
    controller = Controller(
        Mppi(samples=64, iterations=4),
        lambda start, last: Problem(
            WALKER, start, ToGoal(goal, every_step=True), SPACE, 4, previous=last
        ),
    )
    for _ in range(12):
        state = state + 0.2 * controller.act(state)
    assert float((state - goal).norm()) < 0.1


def nowhere(start: Tensor, last: Tensor | None) -> Problem:
    """The first world may go where it likes, the second must be where it cannot come."""
    room = KeepWithin(where, torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 2.0]))
    return Problem(WALKER, start, ToGoal(torch.ones(2, 2)), SPACE, 4, [room])


def test_control_stops_rather_than_breaking_a_constraint() -> None:
    start = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    with pytest.raises(PlanError, match="1 of 2"):
        Controller(Icem(), nowhere).act(start)


def test_control_falls_back_where_it_is_told_how_and_there_alone() -> None:
    controller = Controller(Icem(), nowhere, fallback=torch.zeros(2))
    actions = controller.act(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    assert actions[1].tolist() == [0, 0]
    assert float(actions[0].min()) > 0.1
    assert controller.feasible is not None
    assert controller.feasible.tolist() == [True, False]


def test_control_plans_as_seldom_as_it_is_told_and_starts_from_what_is_left() -> None:
    class Counting:
        def __init__(self) -> None:
            self.warm: list[Tensor | None] = []

        def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> object:
            self.warm.append(warm)
            return Cem(32, 2, 4).search(problem, seed, warm)

    counting = Counting()
    controller = Controller(counting, lambda s, _: of(5), replan_every=2)  # type: ignore[arg-type]
    for _ in range(5):
        controller.act(torch.zeros(1, 2))
    assert len(counting.warm) == 3
    assert counting.warm[0] is None
    assert counting.warm[1] is not None
    with pytest.raises(PlanError):
        Controller(counting, lambda s, _: of(5), replan_every=0)  # type: ignore[arg-type]


def test_what_is_left_of_a_plan_goes_on_with_its_last_action() -> None:
    plan = torch.arange(4.0).view(1, 4, 1)
    assert shifted(plan, 1).flatten().tolist() == [1, 2, 3, 3]
    assert shifted(plan, 3).flatten().tolist() == [3, 3, 3, 3]


# ------------------------------------------------------------------------------ hierarchy

WALL = KeepOut(where, torch.tensor([1.2, -1.5]), torch.tensor([1.7, 1.5]), 0.01, between=1)
BEHIND = torch.tensor([[3.0, 0.0]])  # of the wall; the way round is 15 steps, straight on 10


def walk(planner: Planner, horizon: int, steps: int) -> Tensor:
    """Where receding-horizon control arrives; checks that the wall is never entered."""
    state = torch.zeros(1, 2)
    controller = Controller(
        planner,
        lambda start, last: Problem(WALKER, start, ToGoal(BEHIND), SPACE, horizon, [WALL]),
        replan_every=horizon,  # as LeWM acts: on whole plans
    )
    for _ in range(steps):
        state = state + STEP * controller.act(state)
        assert float(WALL(state[:, None, None], state[:, None, None])) <= 1e-5
    return state


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_subgoals_lead_to_a_goal_that_the_short_horizon_does_not(name: str) -> None:
    fast = PLANNERS[name]()
    stuck = walk(fast, 4, 48)
    assert float((stuck - BEHIND).norm()) > 1.2  # in front of the wall
    there = walk(Hierarchy(Cem(300, 12, 30), fast, stride=4), 24, 48)
    assert float((there - BEHIND).norm()) < 0.05


def test_many_decisions_at_once_do_not_find_what_few_coarse_ones_do() -> None:
    """The same CEM over the same 24 steps, without a slow level, stays in front of the wall."""
    assert float((walk(Cem(), 24, 48) - BEHIND).norm()) > 1.2


def test_the_slow_model_may_be_one_of_its_own_kind() -> None:
    """It foresees four steps at once, by where to go: actions are displacements."""
    slow = SlowModel(LinearWorld.walker(step=1.0), ActionSpace.symmetric(2, 4 * STEP))
    long = torch.tensor([[4.0, -2.0]])
    asked = Problem(WALKER, torch.zeros(1, 2), ToGoal(long), SPACE, 16)
    planner = Hierarchy(Cem(200, 10, 20), Cem(200, 10, 20), stride=4, model=slow)
    found = plan(planner, asked, seed=0)
    assert found.actions.shape == (1, 16, 2)
    end = WALKER.rollout(torch.zeros(1, 2), found.actions[:, None])[0, 0, -1]
    assert float((end - long[0]).norm()) < 0.15


def test_a_hierarchy_is_judged_by_the_whole_plan() -> None:
    """Each stretch keeps a budget that all together break: that is told."""

    class EachWithin:
        def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
            return actions.abs().sum(dim=(-2, -1)) - 6.0

    far = torch.tensor([[4.0, 0.0]])
    asked = Problem(WALKER, torch.zeros(1, 2), ToGoal(far), SPACE, 16, [EachWithin()])
    slow = SlowModel(LinearWorld.walker(step=1.0), ActionSpace.symmetric(2, 4 * STEP))
    planner = Hierarchy(Cem(100, 6, 10), Cem(100, 6, 10), stride=4, model=slow)
    found = planner.search(asked, seed=0)
    spent = float(found.actions.abs().sum())
    assert float(found.violation) == pytest.approx(max(0.0, spent - 6.0), abs=1e-4)
    assert spent > 6.0
    assert not bool(found.feasible.any())

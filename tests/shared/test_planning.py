"""Planners: they find what there is to find, and never return what is not allowed unsaid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.model.predictor import Predictor
from gobelin.shared.planning import (
    PLANNERS,
    ActionSpace,
    Cast,
    Cem,
    Effort,
    FlatDynamics,
    Gradient,
    Hierarchy,
    Icem,
    KeepOut,
    KeepWithin,
    Mppi,
    Planner,
    Problem,
    SpendAtMost,
    Sum,
    ToGoal,
    plan,
)
from gobelin.shared.recipe import PredictorRecipe
from tests.shared.linear_world import LinearWorld

WALKER = LinearWorld.walker(step=0.3)
GOALS = torch.tensor([[1.0, 0.5], [-0.7, 0.2], [0.0, 0.0]])
EVERY = {name: make() for name, make in PLANNERS.items()}
EVERY["hierarchy"] = Hierarchy(slow=Cem(128, 8, 16), fast=Cem(128, 8, 16), stride=2)
planners = pytest.mark.parametrize("planner", EVERY.values(), ids=EVERY)


def problem(goal: Tensor, horizon: int = 6, **kwargs: object) -> Problem:
    start = kwargs.pop("start", torch.zeros(len(goal), 2))
    space = kwargs.pop("space", ActionSpace.symmetric(2))
    return Problem(WALKER, start, ToGoal(goal), space, horizon, **kwargs)  # type: ignore[arg-type]


def path_of(actions: Tensor) -> Tensor:
    """Positions (B, H, 2) of plans (B, H, 2) from the origin."""
    return WALKER.rollout(torch.zeros(len(actions), 2), actions[:, None])[:, 0]


@planners
def test_reaches_the_goals_of_a_whole_batch(planner: Planner) -> None:
    found = plan(planner, problem(GOALS), seed=1)
    assert found.actions.shape == (3, 6, 2)
    assert torch.allclose(path_of(found.actions)[:, -1], GOALS, atol=0.08)
    assert bool(found.feasible.all())


@pytest.mark.parametrize(
    ("planner", "share"),
    [(Cem(), 0.02), (Icem(128, 20), 0.05), (Mppi(300, 30), 0.05), (Gradient(4, 150), 0.02)],
)
def test_plans_are_near_the_optimum_of_a_world_whose_optimum_is_known(
    planner: Planner, share: float
) -> None:
    """A mass to bring to a place, and to rest there, with little effort."""
    world, horizon, effort = LinearWorld.point_mass(axes=1), 8, 0.05
    start = torch.tensor([[0.0, 0.5], [1.0, 0.0], [-0.3, -0.4]])
    goal = torch.tensor([[1.0, 0.0], [0.2, 0.0], [0.3, 0.0]])
    cost = Sum([ToGoal(goal), Effort(effort)])
    asked = Problem(world, start, cost, ActionSpace.symmetric(1, 3.0), horizon)
    best = world.optimum(start, goal, horizon, effort).float()
    assert float(best.abs().max()) < 3.0  # so bounds play no part
    least = asked.judge(best[:, None]).cost[:, 0]
    nothing = asked.judge(torch.zeros(3, 1, horizon, 1)).cost[:, 0]
    found = plan(planner, asked, seed=0)
    assert bool((found.cost >= least - 1e-6).all())
    assert bool((found.cost - least <= share * (nothing - least)).all())


def test_the_known_optimum_is_one() -> None:
    world = LinearWorld.point_mass(axes=2)
    start, goal = torch.randn(5, 4), torch.randn(5, 4)
    asked = Problem(
        world, start, Sum([ToGoal(goal), Effort(0.1)]), ActionSpace.symmetric(2, 1e3), 6
    )
    actions = world.optimum(start, goal, 6, 0.1).float()[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(asked.judge(actions).cost.sum(), actions)
    assert float(slope.abs().max()) < 1e-5


@planners
def test_the_same_seed_gives_the_same_plan_and_randomness_is_not_disturbed(
    planner: Planner,
) -> None:
    state = torch.get_rng_state()
    one, two, other = (planner.search(problem(GOALS), seed).actions for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


@planners
def test_problems_planned_together_are_planned_as_if_alone(planner: Planner) -> None:
    box = KeepOut(lambda z: z, torch.tensor([0.3, 0.1]), torch.tensor([0.6, 0.4]))
    together = planner.search(problem(GOALS, constraints=[box]), seed=5)
    for i in range(len(GOALS)):
        alone = planner.search(problem(GOALS[i : i + 1], constraints=[box]), seed=5)
        assert torch.equal(alone.actions[0], together.actions[i])


@planners
def test_a_transformer_plans_together_what_it_plans_alone(planner: Planner) -> None:
    """Up to rounding: matrix products of other sizes round otherwise."""
    torch.manual_seed(0)
    model = Predictor(PredictorRecipe(dim=16, depth=2, heads=2), latent=4, condition=2).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.requires_grad_(False)
    start, goal = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    space = ActionSpace.symmetric(2)

    def search(i: slice) -> Tensor:
        asked = Problem(FlatDynamics(model.rollout), start[i], ToGoal(goal[i]), space, 4)
        return planner.search(asked, seed=2).actions

    together = search(slice(None))
    assert together.dtype == torch.float64
    for i in range(3):
        assert torch.allclose(search(slice(i, i + 1))[0], together[i], atol=1e-6)


@planners
def test_walks_around_what_it_must_not_enter(planner: Planner) -> None:
    """The straight way to the goal leads through the box."""
    box = KeepOut(lambda z: z, torch.tensor([0.4, -0.3]), torch.tensor([0.8, 0.15]), margin=0.02)
    goal = torch.tensor([[1.2, 0.0]])
    asked = problem(goal, horizon=8, constraints=[box])
    straight = torch.tensor([1.2, 0.0]).expand(1, 1, 8, 2) / (8 * 0.3)
    assert float(asked.judge(straight).violation) > 0
    path = path_of(plan(planner, asked, seed=0).actions)[0]
    inside = (path > box.low).all(dim=1) & (path < box.high).all(dim=1)
    assert not bool(inside.any())
    assert float((path[-1] - goal[0]).norm()) < 0.5


@planners
def test_a_problem_without_an_allowed_plan_is_told_and_spoils_no_other(planner: Planner) -> None:
    far = KeepWithin(lambda z: z, torch.tensor([-0.5, -0.5]), torch.tensor([2.0, 2.0]))
    start = torch.tensor([[0.0, 0.0], [-9.0, 0.0], [0.1, 0.0]])
    asked = problem(GOALS.clamp(min=-0.3), start=start, constraints=[far])
    found = planner.search(asked, seed=0)
    assert found.feasible.tolist() == [True, False, True]
    with pytest.raises(PlanError, match=r"1 of 3 problems \(1; broken by") as caught:
        plan(planner, asked, seed=0)
    assert caught.value.exit_code == 29


@planners
def test_a_budget_of_effort_is_kept(planner: Planner) -> None:
    """The goal needs 3.3 a step's worth of action in sum, and 2 is allowed."""
    found = plan(planner, problem(GOALS[:1], constraints=[SpendAtMost(2.0)]), seed=0)
    assert float(found.actions.abs().sum()) <= 2.0
    near = problem(GOALS[:1]).judge(torch.zeros(1, 1, 6, 2)).cost
    assert float(found.cost) < 0.5 * float(near)


@planners
def test_a_model_that_answers_nan_gives_no_feasible_plan(planner: Planner) -> None:
    class Broken:
        def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
            return z0[:, None, None] + torch.nan * actions

    asked = Problem(Broken(), torch.zeros(1, 2), ToGoal(GOALS[:1]), ActionSpace.symmetric(2), 4)
    assert not bool(planner.search(asked, seed=0).feasible.any())
    with pytest.raises(PlanError, match="no plan with a finite cost"):
        plan(planner, asked, seed=0)


@planners
def test_bounds_and_rate_hold_from_the_last_action_on(planner: Planner) -> None:
    space = ActionSpace(
        torch.tensor([-1.0, -0.2]), torch.tensor([0.5, 1.0]), torch.tensor([0.3, 0.3])
    )
    before = torch.tensor([[-1.0, 1.0]])
    found = plan(planner, problem(GOALS[:1], space=space, previous=before), seed=0)
    whole = torch.cat([before[:, None], found.actions], dim=1)
    assert bool((whole <= space.high).all())
    assert bool((whole >= space.low).all())
    assert float(whole.diff(dim=1).abs().max()) <= 0.3 + 1e-6


@planners
def test_a_warm_start_is_no_worse_than_what_it_starts_from(planner: Planner) -> None:
    asked = problem(GOALS)
    perfect = (GOALS / (6 * 0.3))[:, None].expand(3, 6, 2)
    found = planner.search(asked, seed=0, warm=perfect)
    assert bool((found.cost <= asked.judge(perfect[:, None]).cost[:, 0] + 1e-6).all())


@planners
def test_a_latent_may_be_a_grid_of_tokens(planner: Planner) -> None:
    class Grid:
        """Two tokens that both move by the action."""

        def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
            return z0[:, None, None] + 0.3 * actions.cumsum(dim=2)[:, :, :, None]

    goal = torch.stack([GOALS, GOALS], dim=1)  # (B, 2, 2)
    asked = Problem(Grid(), torch.zeros(3, 2, 2), ToGoal(goal), ActionSpace.symmetric(2), 6)
    assert bool((plan(planner, asked, seed=0).cost < 0.01).all())


@planners
def test_what_a_draft_finds_is_judged_by_the_model_itself(planner: Planner) -> None:
    """The draft goes 2 % too far and does not see the last of it: cost and wall are the model's."""
    draft = LinearWorld.walker(step=0.306)
    wall = KeepWithin(lambda z: z, torch.tensor([-1.0, -1.0]), torch.tensor([0.9, 1.0]))
    asked = problem(GOALS, constraints=[wall], draft=Cast(draft, torch.bfloat16))
    found = plan(planner, asked, seed=0)
    exact = asked.judge(found.actions[:, None])
    assert torch.equal(found.cost, exact.cost[:, 0])
    assert float(exact.violation.max()) <= 0
    assert torch.allclose(path_of(found.actions)[1:, -1], GOALS[1:], atol=0.1)
    assert float(path_of(found.actions)[0, -1, 0]) > 0.75


@planners
def test_a_draft_does_not_let_through_what_the_model_forbids(planner: Planner) -> None:
    """To the draft nothing moves, so it sees no wall."""
    asleep = LinearWorld.walker(step=0.0)
    far = KeepWithin(lambda z: z, torch.tensor([0.2, 0.2]), torch.tensor([0.4, 0.4]))
    start = torch.full((1, 2), 9.0)
    asked = problem(GOALS[:1], start=start, constraints=[far], draft=asleep)
    assert not bool(planner.search(asked, seed=0).feasible.any())


def test_memory_bound_does_not_change_the_plan() -> None:
    small, large = (
        Cem().search(problem(GOALS, max_rollouts=n), seed=0).actions for n in (7, 100_000)
    )
    assert torch.equal(small, large)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ActionSpace(torch.zeros(2), torch.zeros(2)),
        lambda: ActionSpace(torch.zeros(2), torch.ones(3)),
        lambda: ActionSpace(torch.zeros(1), torch.tensor([torch.inf])),
        lambda: ActionSpace(torch.zeros(1), torch.ones(1), torch.zeros(1)),
        lambda: ActionSpace(torch.zeros(1), torch.ones(1), torch.ones(2)),
        lambda: problem(GOALS, horizon=0),
        lambda: problem(GOALS, start=torch.zeros(2)),
        lambda: problem(GOALS, start=torch.full((3, 2), torch.nan)),
        lambda: problem(GOALS, previous=torch.zeros(3, 1)),
        lambda: problem(GOALS, previous=torch.full((3, 2), 2.0)),
        lambda: Cem(samples=10, elites=11),
        lambda: Mppi(temperature=0.0),
        lambda: Gradient(starts=0),
        lambda: Cem().search(problem(GOALS), seed=0, warm=torch.zeros(3, 5, 2)),
        lambda: Hierarchy(Cem(), Cem(), 2).search(problem(GOALS), 0, torch.zeros(3, 5, 2)),
        lambda: Hierarchy(Cem(), Cem(), stride=4).search(problem(GOALS), seed=0),
        lambda: Hierarchy(Cem(), Cem(), stride=0),
    ],
)
def test_problems_that_are_none_are_refused(make: object) -> None:
    with pytest.raises(PlanError):
        make()  # type: ignore[operator]


def test_a_cost_of_the_wrong_shape_is_refused() -> None:
    asked = Problem(WALKER, GOALS, lambda z, a: z.sum(), ActionSpace.symmetric(2), 3)
    with pytest.raises(PlanError, match=r"a cost is \(B, S\)"):
        Cem().search(asked, seed=0)

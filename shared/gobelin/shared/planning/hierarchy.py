"""Two levels: slow latent subgoals, and the fast actions that lead from each to the next.

A long plan of fast actions is a large space, and its cost says little until the goal is near. The
slow level decides seldom and looks far: what it foresees are the subgoals (H-JEPA, LeCun 2022,
§4.6). The fast level then plans the few steps to each, in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.planning.costs import Cost, ToGoal
from gobelin.shared.planning.dynamics import Dynamics, Held, held
from gobelin.shared.planning.guardrails import Constraint
from gobelin.shared.planning.problem import Plan, Planner, Problem, plan_of
from gobelin.shared.planning.space import ActionSpace
from gobelin.shared.seeds import derive_seed


@dataclass(frozen=True, eq=False)
class SlowModel:
    """A world model of long steps, each by an action of its own kind; its latents are the fast's.

    It may foresee several latents a step: the last of them is the subgoal.
    """

    dynamics: Dynamics
    space: ActionSpace
    cost: Cost | None = None  # over the whole plan; the problem's own where unset


@dataclass(frozen=True, eq=False)
class OfHeld:
    """A cost or a constraint of fast actions, asked about slow ones that are held."""

    judge: Cost | Constraint
    steps: int

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What it says (B, S) of latents (B, S, H, D...) and actions (B, S, H / steps, A)."""
        return self.judge(latents, held(actions, self.steps))


@dataclass(frozen=True)
class Hierarchy:
    """A planner of two planners, for horizons of many `stride`s.

    Without a slow model, the slow level is the fast model with each action held for `stride`
    steps: nothing more has to be trained, and guardrails see every step of both levels. The last
    stretch is planned for the problem's own cost, the others for their subgoal. The plan is
    judged as a whole, by the problem's own cost and constraints, beside the slow plan where that
    is one of fast actions; so what is feasible is so at every step and over all of them.
    """

    slow: Planner
    fast: Planner
    stride: int
    model: SlowModel | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise PlanError(f"a stride of {self.stride} steps", "give 1 or more")

    @torch.no_grad()
    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """The best found, from `warm` (B, H, A) if there is one; H is a multiple of the stride.

        Raises PlanError where it is not, or where `warm` has another shape.
        """
        if warm is not None and warm.shape != problem.shape:
            raise PlanError(f"a warm start is {problem.shape}, not {tuple(warm.shape)}")
        if problem.horizon % self.stride:
            raise PlanError(
                f"a horizon of {problem.horizon} is no multiple of the stride {self.stride}",
                "choose a horizon that is",
            )
        asked = self._slow_problem(problem)
        slow_warm = None
        if warm is not None and self.model is None:
            slow_warm = warm.reshape(len(warm), asked.horizon, self.stride, -1).mean(dim=2)
        slow = self.slow.search(asked, derive_seed(seed, "slow"), slow_warm)
        coarse = held(slow.actions, self.stride) if self.model is None else None
        subgoals = self._subgoals(asked, slow)
        starts = coarse if warm is None else warm
        fine = self._fast_actions(problem, subgoals, seed, starts)
        found = [fine] if coarse is None else [fine, problem.project(coarse[:, None])[:, 0]]
        if warm is not None:
            found.append(problem.project(warm[:, None].to(problem.start))[:, 0])
        return plan_of(problem.judge(torch.stack(found, dim=1)))

    def _slow_problem(self, problem: Problem) -> Problem:
        steps = problem.horizon // self.stride
        if self.model is not None:
            return replace(
                problem,
                dynamics=self.model.dynamics,
                draft=None,
                space=self.model.space,
                cost=self.model.cost or problem.cost,
                horizon=steps,
                previous=None,  # an action of another kind
            )
        return replace(
            problem,
            dynamics=Held(problem.dynamics, self.stride),
            draft=None if problem.draft is None else Held(problem.draft, self.stride),
            cost=OfHeld(problem.cost, self.stride),
            constraints=[OfHeld(each, self.stride) for each in problem.constraints],
            horizon=steps,
            max_rollouts=max(1, problem.max_rollouts // self.stride),
        )

    def _subgoals(self, asked: Problem, slow: Plan) -> Tensor:
        """Latents (B, M, D...) at the end of each slow step."""
        latents = asked.dynamics.rollout(asked.start, slow.actions[:, None])[:, 0]
        each = latents.shape[1] // asked.horizon
        return latents[:, each - 1 :: each]

    def _fast_actions(
        self, problem: Problem, subgoals: Tensor, seed: int, warm: Tensor | None
    ) -> Tensor:
        """Actions (B, H, A), stretch by stretch, each from where the last one ends."""
        state, previous = problem.start, problem.previous
        count, stretches = subgoals.shape[1], []
        for m in range(count):
            cost = ToGoal(subgoals[:, m]) if m < count - 1 else problem.cost
            asked = replace(problem, start=state, cost=cost, horizon=self.stride, previous=previous)
            near = None if warm is None else warm[:, m * self.stride : (m + 1) * self.stride]
            found = self.fast.search(asked, derive_seed(seed, "fast", m), near)
            stretches.append(found.actions)
            ahead = problem.dynamics.rollout(state, found.actions[:, None])[:, 0, -1]
            state = torch.where(ahead.isfinite(), ahead, state)  # what is not, the judge finds
            previous = found.actions[:, -1]
        return torch.cat(stretches, dim=1)

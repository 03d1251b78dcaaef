"""Receding-horizon control: plan, act a little, look, plan again from where the last plan was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.planning.problem import Plan, Planner, Problem
from gobelin.shared.seeds import derive_seed

# start (B, D...), last action (B, A) or None → problem
MakeProblem = Callable[[Tensor, Tensor | None], Problem]


@dataclass
class Controller:
    """Turns a planner into actions, one step at a time, for B worlds in step.

    Where no plan keeps the constraints, a world gets the `fallback` until the next plan; without
    one, PlanError: better to stop than to break a constraint.
    """

    planner: Planner
    problem: MakeProblem
    seed: int = 0
    replan_every: int = 1  # actions taken of each plan, of a shorter one all
    fallback: Tensor | None = None  # (A,), the action that is safe anywhere: to stand still, say
    _plan: Plan | None = field(default=None, init=False)
    _taken: int = field(default=0, init=False)  # of the current plan
    _steps: int = field(default=0, init=False)
    _last: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.replan_every < 1:
            raise PlanError(f"replan_every = {self.replan_every}", "give 1 or more")

    @property
    def feasible(self) -> Tensor | None:
        """Which worlds (B,) the current plan holds for; the others get the fallback."""
        return None if self._plan is None else self._plan.feasible

    def act(self, start: Tensor) -> Tensor:
        """The next actions (B, A) in the latent states `start` (B, D...); raises PlanError."""
        current = self._plan
        if current is None or self._taken >= min(self.replan_every, current.actions.shape[1]):
            current = self._replan(start)
        action = current.actions[:, self._taken]
        self._taken += 1
        self._steps += 1
        self._last = action
        return action

    def _replan(self, start: Tensor) -> Plan:
        problem = self.problem(start, self._last)
        warm = None if self._plan is None else shifted(self._plan.actions, self._taken)
        found = self.planner.search(problem, derive_seed(self.seed, "step", self._steps), warm)
        if self.fallback is None:
            found.require_feasible()
        else:
            stop = self.fallback.to(found.actions).expand_as(found.actions)
            kept = torch.where(found.feasible[:, None, None], found.actions, stop)
            found = Plan(kept, found.cost, found.violation)
        self._plan, self._taken = found, 0
        return found


def shifted(actions: Tensor, steps: int) -> Tensor:
    """A plan (B, H, A) `steps` later: what is left of it, its last action repeated."""
    rest = actions[:, steps:]
    return torch.cat([rest, actions[:, -1:].expand(-1, min(steps, actions.shape[1]), -1)], dim=1)

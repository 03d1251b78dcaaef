"""What a planner is asked: reach a low cost in latent space by actions that are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.planning.costs import Cost
from gobelin.shared.planning.dynamics import Dynamics
from gobelin.shared.planning.guardrails import Constraint
from gobelin.shared.planning.judged import Judged
from gobelin.shared.planning.space import ActionSpace


@dataclass(frozen=True, eq=False)
class Problem:
    """B problems of one kind, planned together on the device and in the dtype of `start`.

    Raises PlanError where sizes do not fit or a start is not finite.
    """

    dynamics: Dynamics
    start: Tensor  # (B, D...)
    cost: Cost
    space: ActionSpace
    horizon: int  # H
    constraints: Sequence[Constraint] = ()
    previous: Tensor | None = None  # (B, A), the action taken before
    max_rollouts: int = 1 << 12  # at once, so that memory stays bounded
    draft: Dynamics | None = None  # a cheaper model to search with; `dynamics` judges what it finds

    def __post_init__(self) -> None:
        if self.start.ndim < 2 or not len(self.start) or not self.start.is_floating_point():
            raise PlanError(f"start is float (B, D...), not {tuple(self.start.shape)}")
        if not bool(self.start.isfinite().all()):
            raise PlanError("a start is not finite", "look at what the encoder was given")
        if self.horizon < 1 or self.max_rollouts < 1:
            raise PlanError(
                f"a horizon of {self.horizon}, {self.max_rollouts} rollouts at once",
                "give 1 or more of each",
            )
        if self.previous is not None:
            self._check_previous(self.previous)

    def _check_previous(self, previous: Tensor) -> None:
        wanted = (len(self.start), self.space.size)
        if previous.shape != wanted:
            raise PlanError(f"previous actions are {wanted}, not {tuple(previous.shape)}")
        space, taken = self.own_space, previous.to(self.start)
        if not bool(((taken >= space.low) & (taken <= space.high)).all()):
            raise PlanError("a previous action is out of bounds", "widen the bounds, or clamp it")

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, H and A."""
        return len(self.start), self.horizon, self.space.size

    @cached_property
    def own_space(self) -> ActionSpace:
        """The action space on this problem's device and in its dtype."""
        return self.space.like(self.start)

    def project(self, actions: Tensor) -> Tensor:
        """The allowed actions nearest to candidates (B, S, H, A)."""
        before = None if self.previous is None else self.previous[:, None].to(actions)
        return self.own_space.project(actions, before)

    def screen(self, actions: Tensor) -> Judged:
        """Candidates (B, S, H, A) as the draft sees them, if there is one, else as `judge` does."""
        return self._drafted.judge(actions)

    @cached_property
    def _drafted(self) -> Problem:
        return self if self.draft is None else replace(self, dynamics=self.draft, draft=None)

    def settle(self, mean: Tensor, best: Judged | None, elites: Judged | None) -> Plan:
        """The best of a search's last mean (B, H, A), its best candidate and its last elites.

        What a draft has seen is judged anew, so that what a plan costs and keeps is the model's
        own word.
        """
        every = self.screen(self.project(mean[:, None])).beside(best).beside(elites)
        return plan_of(every if self.draft is None else self.judge(every.actions))

    def judge(self, actions: Tensor) -> Judged:
        """Cost and violation of candidates (B, S, H, A); the graph goes through the rollout."""
        per_turn = max(1, self.max_rollouts // len(self.start))
        if actions.shape[1] <= per_turn:
            return Judged(actions, *self._judge(actions), guarded=bool(self.constraints))
        turns = [self._judge(part) for part in torch.split(actions, per_turn, dim=1)]
        cost, violation = (torch.cat(parts, dim=1) for parts in zip(*turns, strict=True))
        return Judged(actions, cost, violation, guarded=bool(self.constraints))

    def _judge(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.dynamics.rollout(self.start, actions)
        cost = self.cost(latents, actions)
        if cost.shape != actions.shape[:2]:
            wanted = tuple(actions.shape[:2])
            raise PlanError(f"a cost is (B, S) = {wanted}, this one is {tuple(cost.shape)}")
        violation = torch.zeros_like(cost)
        for constraint in self.constraints:
            broken = constraint(latents, actions).nan_to_num(nan=torch.inf)
            violation = violation + broken.clamp(min=0)
        # −inf is no cost either: a plan must not win by an overflow
        return cost.nan_to_num(nan=torch.inf, neginf=torch.inf), violation


@dataclass(frozen=True, eq=False)
class Plan:
    """What a search found for each of B problems; `feasible` says which may be acted on."""

    actions: Tensor  # (B, H, A)
    cost: Tensor  # (B,)
    violation: Tensor  # (B,)

    @property
    def feasible(self) -> Tensor:
        """Which plans (B,) keep every constraint and have a finite cost."""
        return (self.violation <= 0) & self.cost.isfinite()

    def require_feasible(self) -> Plan:
        """This plan; raises PlanError when one of its problems has none that is allowed."""
        broken = (~self.feasible).nonzero().flatten().tolist()
        if not broken:
            return self
        least = float(self.violation[broken].min())
        first = ", ".join(map(str, broken[:5])) + (", …" if len(broken) > 5 else "")
        if least <= 0:
            raise PlanError(
                f"no plan with a finite cost for {len(broken)} of {len(self.cost)} problems "
                f"({first})",
                "look for NaN in the model or in the goal",
            )
        raise PlanError(
            f"no plan found that keeps the constraints for {len(broken)} of {len(self.cost)} "
            f"problems ({first}; broken by {least:.3g} at least)",
            "relax a constraint, plan further ahead, or give the planner more samples",
        )


class Planner(Protocol):
    """Searches for the actions of least cost among those that are allowed."""

    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """The best found for each problem, feasible or not; it starts from `warm` (B, H, A)."""
        ...


def plan(planner: Planner, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
    """Plans that keep every constraint; raises PlanError where one of the problems has none."""
    return planner.search(problem, seed, warm).require_feasible()


def plan_of(judged: Judged) -> Plan:
    """The best of some candidates as a plan."""
    best = judged.best_first(1)
    return Plan(
        best.actions[:, 0].detach(), best.cost[:, 0].detach(), best.violation[:, 0].detach()
    )

"""Planning success: how often a world model gets from here to there by what it foresees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import ActionSpace, Controller, Planner, Problem, ToGoal

Floats = NDArray[np.float32]


class World(Protocol):
    """Exact dynamics and pictures, for N places at once; a place is a state of S numbers."""

    @property
    def max_step(self) -> float:
        """Bound of each number of an action."""
        ...

    @property
    def actions(self) -> int:
        """A, numbers of an action."""
        ...

    def step(self, positions: Floats, actions: Floats) -> Floats:
        """Positions (N, S) after actions (N, A)."""
        ...

    def render(self, positions: Floats) -> NDArray[Any]:
        """Observations (N, ...) of positions (N, S)."""
        ...

    def off(self, positions: Floats, goals: Floats) -> Floats:
        """How far (N,) positions (N, S) are from goals (N, S)."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """N episodes: from `starts` to `goals`, each (N, S), within `radius`, in `budget` steps."""

    starts: Floats
    goals: Floats
    radius: float = 0.07
    budget: int = 40


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each episode: whether it ended at its goal, after how many steps."""

    reached: NDArray[np.bool_]  # (N,)
    steps: NDArray[np.int64]  # (N,), the budget where it never did
    last: Floats  # (N, S)

    @property
    def success(self) -> float:
        """Percent."""
        return 100 * float(self.reached.mean())


Policy = Callable[[Floats], Floats]  # positions (N, S), as the world knows them → actions (N, A)


def drive(world: World, task: Task, policy: Policy) -> Outcome:
    """Let a policy act until all have arrived or the budget is spent; who has arrived stays."""
    positions = task.starts.copy()
    arrived = _near(world, positions, task)
    steps = np.where(arrived, 0, task.budget)
    for step in range(1, task.budget + 1):
        if arrived.all():
            break
        moved = world.step(positions, policy(positions))
        positions = np.where(arrived[:, None], positions, moved).astype(np.float32)
        now = _near(world, positions, task) & ~arrived
        steps[now] = step
        arrived |= now
    return Outcome(arrived, steps, positions)


def planning_policy(
    model: WorldModel,
    world: World,
    task: Task,
    planner: Planner,
    *,
    horizon: int = 12,
    every_step: bool = True,
    replan_every: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Policy:
    """Sees pictures alone: of where it is, and of the goal."""

    @torch.no_grad()
    def look(positions: Floats) -> Tensor:
        return model.encode(torch.from_numpy(world.render(positions)).to(device))

    goals = look(task.goals)
    space = ActionSpace.symmetric(world.actions, world.max_step)

    def problem(start: Tensor, last: Tensor | None) -> Problem:
        cost = ToGoal(goals, every_step=every_step)
        return Problem(model, start, cost, space, horizon, previous=last)

    controller = Controller(planner, problem, seed=seed, replan_every=replan_every)

    def act(positions: Floats) -> Floats:
        actions: Floats = controller.act(look(positions)).cpu().numpy()
        return actions

    return act


def _near(world: World, positions: Floats, task: Task) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = world.off(positions, task.goals) <= task.radius
    return near

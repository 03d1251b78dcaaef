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
    """Exact dynamics and pictures, for N places at once."""

    @property
    def max_step(self) -> float:
        """Bound of each action."""
        ...

    def step(self, positions: Floats, actions: Floats) -> Floats:
        """Positions (N, 2) after actions (N, 2)."""
        ...

    def render(self, positions: Floats) -> NDArray[Any]:
        """Observations (N, ...) of positions (N, 2)."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """N episodes: from `starts` to `goals`, each (N, 2), within `radius`, in `budget` steps."""

    starts: Floats
    goals: Floats
    radius: float = 0.07
    budget: int = 40


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each episode: whether it ended at its goal, after how many steps."""

    reached: NDArray[np.bool_]  # (N,)
    steps: NDArray[np.int64]  # (N,), the budget where it never did
    last: Floats  # (N, 2)

    @property
    def success(self) -> float:
        """Percent."""
        return 100 * float(self.reached.mean())


Policy = Callable[[Floats], Floats]  # positions (N, 2), as the world knows them → actions (N, 2)


def drive(world: World, task: Task, policy: Policy) -> Outcome:
    """Let a policy act until all have arrived or the budget is spent; who has arrived stays."""
    positions = task.starts.copy()
    arrived = _near(positions, task)
    steps = np.where(arrived, 0, task.budget)
    for step in range(1, task.budget + 1):
        if arrived.all():
            break
        moved = world.step(positions, policy(positions))
        positions = np.where(arrived[:, None], positions, moved).astype(np.float32)
        now = _near(positions, task) & ~arrived
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
    space = ActionSpace.symmetric(task.goals.shape[1], world.max_step)

    def problem(start: Tensor, last: Tensor | None) -> Problem:
        cost = ToGoal(goals, every_step=every_step)
        return Problem(model, start, cost, space, horizon, previous=last)

    controller = Controller(planner, problem, seed=seed, replan_every=replan_every)

    def act(positions: Floats) -> Floats:
        actions: Floats = controller.act(look(positions)).cpu().numpy()
        return actions

    return act


def _near(positions: Floats, task: Task) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.linalg.norm(positions - task.goals, axis=1) <= task.radius
    return near

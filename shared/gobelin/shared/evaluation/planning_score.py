"""What a world model's plans are worth in a world that is simulated here: success, and its cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gobelin.shared.evaluation.intervals import wilson
from gobelin.shared.evaluation.planning import (
    Floats,
    Outcome,
    Policy,
    Task,
    drive,
    planning_policy,
)
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import Planner
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import TwoRoom

LEAST_DISTANCE = 0.3  # from start to goal, in the world's unit


@dataclass(frozen=True, eq=False)
class Score:
    """How one policy fared in E episodes."""

    outcome: Outcome
    length: NDArray[np.float64]  # (E,), of the way taken, in the world's unit
    seconds: float  # a decision for all episodes took, mean

    def facts(self) -> dict[str, Any]:
        """Plain JSON; cost is in steps and in length of way, of the episodes that arrived."""
        there = self.outcome.reached
        low, high = wilson(int(there.sum()), len(there))
        return {
            "success": self.outcome.success,
            "success_low": 100 * low,
            "success_high": 100 * high,
            "steps": float(self.outcome.steps[there].mean()) if there.any() else None,
            "steps_with_failures": float(self.outcome.steps.mean()),
            "length": float(self.length[there].mean()) if there.any() else None,
            "decision_s": self.seconds,
        }


def two_room_task(world: TwoRoom, episodes: int, budget: int, seed: int) -> Task:
    """Starts and goals anywhere in the two rooms, LEAST_DISTANCE apart or more."""
    random = np.random.default_rng(derive_seed(seed, "planning task"))
    pairs: list[Floats] = []
    while len(pairs) < episodes:
        pair = random.random((2, 2), dtype=np.float32)
        if np.linalg.norm(pair[0] - pair[1]) >= LEAST_DISTANCE:
            pairs.append(pair)
    drawn = np.stack(pairs)
    return Task(drawn[:, 0], drawn[:, 1], budget=budget)


def score_planning(
    model: WorldModel,
    world: TwoRoom,
    task: Task,
    planner: Planner,
    *,
    horizon: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Score]:
    """The model's plans, beside actions that know nothing and those that go straight on.

    `straight` knows where it is and where the goal is, and nothing of the wall.
    """
    random = np.random.default_rng(derive_seed(seed, "random policy"))
    bound = world.max_step
    policies: dict[str, Policy] = {
        "model": planning_policy(
            model, world, task, planner, horizon=horizon, seed=seed, device=device
        ),
        "random": lambda at: random.uniform(-bound, bound, at.shape).astype(np.float32),
        "straight": lambda at: np.clip(task.goals - at, -bound, bound).astype(np.float32),
    }
    return {name: score(world, task, policy) for name, policy in policies.items()}


def score(world: TwoRoom, task: Task, policy: Policy) -> Score:
    """Let one policy act."""
    seen: list[Floats] = []
    seconds: list[float] = []

    def watched(positions: Floats) -> Floats:
        started = time.perf_counter()
        actions = policy(positions)
        seconds.append(time.perf_counter() - started)
        seen.append(positions)
        return actions

    outcome = drive(world, task, watched)
    ways = np.stack([*seen, outcome.last])  # (steps + 1, E, 2); who has arrived stays
    length = np.linalg.norm(np.diff(ways, axis=0), axis=2).sum(axis=0)
    return Score(outcome, length, float(np.mean(seconds)) if seconds else 0.0)

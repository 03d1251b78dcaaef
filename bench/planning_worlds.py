"""The worlds of the bench of planning success: their films, and what is asked in them.

`easy` is two rooms and a door (`gobelin.shared.worlds.two_room`), `harder` an arm of two links
that torques drive (`gobelin.shared.worlds.reacher`). Films are of random actions; nothing in them
aims at anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.evaluation.planning import Task, World
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import Reacher, TwoRoom


@dataclass(frozen=True, eq=False)
class Film:
    """Episodes, each picture once; an observation is the last `depth` pictures, latest first."""

    pictures: NDArray[np.uint8]  # (E, T + 1, H, W)
    actions: NDArray[np.float32]  # (E, T, A)
    depth: int = 1

    def seen(self, rows: NDArray[Any], times: NDArray[Any], still: bool = False) -> Tensor:
        """Observations uint8 (B, K, depth, H, W) of episodes (B, 1) at times (B, K).

        `still`: as it would be seen if nothing had moved for a while, as goals are.
        """
        back = np.zeros(self.depth, int) if still else np.arange(self.depth)
        when = np.maximum(times[..., None] - back, 0)  # before an episode nothing moved
        return torch.from_numpy(self.pictures[rows[..., None], when])

    def windows(self, seed: int, steps: int, batch: int) -> Callable[[int], Trajectories]:
        """Global step → windows of so many steps, anywhere in the film."""

        def of_step(step: int) -> Trajectories:
            random = np.random.default_rng(derive_seed(seed, "batch", step))
            rows = random.integers(len(self.actions), size=(batch, 1))
            latest = self.actions.shape[1] - steps
            times = random.integers(latest + 1, size=(batch, 1)) + np.arange(steps + 1)
            done = torch.from_numpy(self.actions[rows, times[:, :-1]])
            return Trajectories(self.seen(rows, times), done)

        return of_step

    def hindsight(self, seed: int, step: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, depth, H, W), goals that were reached later, and actions (B, A)."""
        random = np.random.default_rng(derive_seed(seed, "hindsight", step))
        rows = random.integers(len(self.actions), size=(batch, 1))
        now = random.integers(self.actions.shape[1], size=(batch, 1))
        later = random.integers(now + 1, self.actions.shape[1] + 1)
        done = torch.from_numpy(self.actions[rows, now])[:, 0]
        return self.seen(rows, now)[:, 0], self.seen(rows, later, still=True)[:, 0], done


@dataclass(frozen=True)
class Case:
    """A world, how a model of it is trained, and how plans are made with it."""

    recipe: str
    world: World
    film: Callable[[int], Film]  # of a seed
    task: Callable[[int, int], Task]  # of a seed and a number of episodes
    steps: int  # of training
    horizon: int
    replan_every: int


def two_room_film(seed: int) -> Film:
    """4,500 episodes of 12 actions, anywhere."""
    world = TwoRoom()
    shown = world.episodes(4500, 12, derive_seed(seed, "films"))
    pictures = world.render(shown.positions.reshape(-1, 2))
    return Film(pictures.reshape(*shown.positions.shape[:2], *pictures.shape[2:]), shown.actions)


def two_room_task(seed: int, episodes: int) -> Task:
    """Journeys from anywhere to anywhere, as `examples.demo_worldmodel` has them."""
    random = np.random.default_rng(derive_seed(seed, "journeys"))
    ends = random.random((2, episodes, 2), dtype=np.float32)
    return Task(ends[0], ends[1])


def reacher_film(seed: int) -> Film:
    """3,000 episodes of 20 actions."""
    world = Reacher()
    shown = world.episodes(3000, 20, derive_seed(seed, "films"))
    pictures = world.draw(shown.states[:, :, :2].reshape(-1, 2))
    shape = (*shown.states.shape[:2], *pictures.shape[1:])
    return Film(pictures.reshape(shape), shown.actions, depth=3)


def reacher_task(seed: int, episodes: int) -> Task:
    """From rest at any angles to the picture of any others."""
    random = np.random.default_rng(derive_seed(seed, "poses"))
    starts, goals = (Reacher().random_rest(episodes, random) for _ in range(2))
    return Task(starts, goals, radius=0.05, budget=40)


CASES = {
    "easy": Case("two_room", TwoRoom(), two_room_film, two_room_task, 1500, 12, 1),
    "harder": Case("reacher", Reacher(), reacher_film, reacher_task, 3000, 12, 1),
}

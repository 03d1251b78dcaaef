"""Two rooms and a door: a dot moves in the unit square, which a wall parts at x = 0.5.

An action is a displacement; walls stop the motion across them and let the motion along them pass.
The wall is as thick as it is drawn, so that a picture tells on which side of it the dot is: with a
wall of no thickness, what a push at it does could not be known from the picture.
A region is a part of the world: its episodes are episodes of the one world that never leave it,
so what members with different regions see of the dynamics never contradicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

DOT, WALL = 255, 96  # grey values
CANDIDATES = 4096  # episodes drawn at a time, of which those inside the region are kept
MAX_DRAWS = 2_000_000


@dataclass(frozen=True)
class Box:
    """An axis-parallel part of the world, borders included."""

    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)

    def contains(self, positions: Floats) -> NDArray[np.bool_]:
        """Which of the positions (..., 2) lie inside, (...)."""
        x, y = positions[..., 0], positions[..., 1]
        return (self.x[0] <= x) & (x <= self.x[1]) & (self.y[0] <= y) & (y <= self.y[1])


WORLD = Box()
REGIONS = {  # a room each, and what lies around the door: little of either, and both at once
    "left": Box(x=(0.0, 0.5)),
    "right": Box(x=(0.5, 1.0)),
    "door": Box(x=(0.3, 0.7), y=(0.25, 0.75)),
}


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes of T actions: `positions` (E, T + 1, 2) in [0, 1], `actions` (E, T, 2)."""

    positions: Floats
    actions: Floats

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class TwoRoom:
    """The world: a wall at x = 0.5, open where |y − door| ≤ half the door's width."""

    door: float = 0.5  # y of the door's middle
    door_width: float = 0.25
    max_step: float = 0.12  # actions are clipped to ± this, per axis
    image_size: int = 32  # pixels a side
    dot: float = 1.2  # standard deviation of the dot, pixels
    dot_grey: int = DOT
    wall_grey: int = WALL
    half_wall: float = 1 / 32  # half of its thickness

    @property
    def actions(self) -> int:
        """Numbers of an action: a displacement."""
        return 2

    def step(self, positions: Floats, actions: Floats) -> Floats:
        """Positions (N, 2) after actions (N, 2)."""
        clipped = np.clip(actions, -self.max_step, self.max_step)
        wanted = np.clip(positions + clipped, 0, 1)
        crosses = (positions[:, 0] < 0.5) != (wanted[:, 0] < 0.5)
        share = (0.5 - positions[:, 0]) / np.where(crosses, wanted[:, 0] - positions[:, 0], 1)
        crossing = positions[:, 1] + share * (wanted[:, 1] - positions[:, 1])  # y at the wall
        blocked = crosses & (np.abs(crossing - self.door) > self.door_width / 2)
        closed = np.abs(wanted[:, 1] - self.door) > self.door_width / 2
        inside = closed & (np.abs(wanted[:, 0] - 0.5) < self.half_wall)
        left = np.where(blocked, positions[:, 0], wanted[:, 0]) < 0.5
        face = np.where(left, self._left_face, 0.5 + self.half_wall)
        wanted[:, 0] = np.where(blocked | inside, face, wanted[:, 0])
        moved: Floats = wanted.astype(np.float32)
        return moved

    @property
    def _left_face(self) -> np.float32:
        """Where the wall stops what comes from the left: left of its middle, however thin it is."""
        return np.float32(np.nextafter(np.float32(0.5 - self.half_wall), np.float32(0)))

    def off(self, positions: Floats, goals: Floats) -> Floats:
        """How far (N,) positions (N, 2) are from goals."""
        far: Floats = np.linalg.norm(positions - goals, axis=1)
        return far

    def episodes(self, count: int, steps: int, seed: int, region: Box = WORLD) -> Episodes:
        """`count` episodes that stay inside the region; actions drift and jitter.

        Raises ValueError when hardly any episode stays inside.
        """
        random = np.random.default_rng(seed)
        low, high = np.array([region.x[0], region.y[0]]), np.array([region.x[1], region.y[1]])
        kept: list[Episodes] = []
        drawn = found = 0
        while found < count:
            if drawn >= MAX_DRAWS:
                raise ValueError(f"{found} of {drawn} episodes stay inside {region}")
            start = low + (high - low) * random.random((CANDIDATES, 2))
            batch = self._episodes(start.astype(np.float32), steps, random)
            inside = region.contains(batch.positions).all(axis=1)
            kept.append(Episodes(batch.positions[inside], batch.actions[inside]))
            drawn, found = drawn + CANDIDATES, found + int(inside.sum())
        positions = np.concatenate([batch.positions for batch in kept])[:count]
        actions = np.concatenate([batch.actions for batch in kept])[:count]
        return Episodes(positions, actions)

    def _episodes(self, start: Floats, steps: int, random: np.random.Generator) -> Episodes:
        scale = self.max_step / 2
        drift = scale / 2 * random.standard_normal((len(start), 1, 2))
        jitter = scale * random.standard_normal((len(start), steps, 2))
        actions = np.clip(drift + jitter, -self.max_step, self.max_step).astype(np.float32)
        return Episodes(self.follow(start, actions), actions)

    def follow(self, start: Floats, actions: Floats) -> Floats:
        """Positions (N, T + 1, 2) from `start` (N, 2) through actions (N, T, 2)."""
        positions = [start]
        for t in range(actions.shape[1]):
            positions.append(self.step(positions[-1], actions[:, t]))
        return np.stack(positions, axis=1)

    def render(self, positions: Floats) -> NDArray[np.uint8]:
        """Pictures of positions (N, 2), uint8 (N, 1, H, W): a soft dot over the wall."""
        size = self.image_size
        centres = (np.arange(size, dtype=np.float32) + 0.5) / size
        # A product of two bells, one an axis: (N, H) and (N, W).
        bells = np.exp(-0.5 * ((positions[:, :, None] - centres) * (size / self.dot)) ** 2)
        dots = self.dot_grey * bells[:, 1, :, None] * bells[:, 0, None, :]
        pictures: NDArray[np.uint8] = np.maximum(dots, self._walls())[:, None].astype(np.uint8)
        return pictures

    def _walls(self) -> Floats:
        """The empty world, (H, W)."""
        size = self.image_size
        picture = np.zeros((size, size), dtype=np.float32)
        rows = (np.arange(size) + 0.5) / size
        closed = np.abs(rows - self.door) > self.door_width / 2
        across = np.abs(rows - 0.5) < max(self.half_wall, 1 / size)  # seen, however thin it is
        picture[np.ix_(closed, across)] = self.wall_grey
        return picture

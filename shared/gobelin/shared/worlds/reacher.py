"""An arm of two links in a horizontal plane, driven by torques at its joints, and seen from above.

Rigid bodies (Spong, Robot Modeling and Control, §7): uniform rods of length and mass 1, damped
joints without stops. An arm has momentum, which no single picture shows; so what is seen at a
time are the last three pictures, as the three channels of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

STATE = 8  # angles (2), their velocities (2), angles a step ago (2) and two steps ago (2)
BASE, LINK = 0.5, 0.2  # where the arm is fixed, and a link's length, in widths of the picture
INERTIA, COUPLING = (5 / 3, 1 / 3), 0.5  # of the mass matrix of two such rods
GREY = (150.0, 255.0)  # of the links
HALF_WIDTH = 0.02  # of a link, in widths of the picture
PART = 2048  # pictures drawn at a time


@dataclass(frozen=True, eq=False)
class ArmEpisodes:
    """E episodes of T actions: `states` (E, T + 1, 8), `actions` (E, T, 2) in [−1, 1]."""

    states: Floats
    actions: Floats

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Reacher:
    """The world; angles in radians, time in seconds, actions in shares of the greatest torque."""

    torque: tuple[float, float] = (24.0, 6.0)  # at each joint, at most
    damping: tuple[float, float] = (8.0, 2.0)  # torque a rad / s
    seconds: float = 0.1  # of an action
    substeps: int = 10
    image_size: int = 32  # pixels a side

    @property
    def max_step(self) -> float:
        """Bound of an action."""
        return 1.0

    @property
    def actions(self) -> int:
        """Numbers of an action: a torque a joint."""
        return 2

    def step(self, states: Floats, actions: Floats) -> Floats:
        """States (N, 8) after actions (N, 2)."""
        torque = np.clip(actions, -1, 1) * np.array(self.torque, dtype=np.float32)
        angles, speeds = states[:, :2].astype(np.float64), states[:, 2:4].astype(np.float64)
        dt = self.seconds / self.substeps
        for _ in range(self.substeps):
            speeds = speeds + dt * self._acceleration(angles, speeds, torque)
            angles = angles + dt * speeds
        moved: Floats = np.concatenate(
            [angles, speeds, states[:, :2], states[:, 4:6]], axis=1
        ).astype(np.float32)
        return moved

    def _acceleration(
        self, angles: NDArray[np.float64], speeds: NDArray[np.float64], torque: Floats
    ) -> NDArray[np.float64]:
        """M(q)⁻¹ (τ − damping − Coriolis), (N, 2)."""
        bend, twist = np.cos(angles[:, 1]), COUPLING * np.sin(angles[:, 1])
        first, second = speeds.T
        own, other, last = (
            INERTIA[0] + 2 * COUPLING * bend,
            INERTIA[1] + COUPLING * bend,
            INERTIA[1],
        )
        free = torque - np.array(self.damping) * speeds
        left = free[:, 0] + twist * (2 * first * second + second**2)
        right = free[:, 1] - twist * first**2
        whole = own * last - other**2
        return np.stack(
            [(last * left - other * right) / whole, (own * right - other * left) / whole], axis=1
        )

    def at_rest(self, angles: Floats) -> Floats:
        """States (N, 8) of an arm that has stood at angles (N, 2) for a while."""
        still: Floats = np.concatenate([angles, np.zeros_like(angles), angles, angles], axis=1)
        return still

    def random_rest(self, count: int, random: np.random.Generator) -> Floats:
        """States (N, 8) at rest, at any angles."""
        return self.at_rest(random.uniform(-np.pi, np.pi, (count, 2)).astype(np.float32))

    def episodes(self, count: int, steps: int, seed: int) -> ArmEpisodes:
        """`count` episodes from rest under torques that drift and jitter."""
        random = np.random.default_rng(seed)
        states = [self.random_rest(count, random)]
        push, actions = random.uniform(-1, 1, (count, 2)), []
        for _ in range(steps):
            change = random.random((count, 1)) < 0.2
            push = np.where(change, random.uniform(-1, 1, (count, 2)), push)
            jitter = 0.4 * random.standard_normal((count, 2))
            actions.append(np.clip(push + jitter, -1, 1).astype(np.float32))
            states.append(self.step(states[-1], actions[-1]))
        return ArmEpisodes(np.stack(states, axis=1), np.stack(actions, axis=1))

    def joints(self, angles: NDArray[np.floating]) -> Floats:
        """Where elbow and tip are: (N, 2, 2) of angles (N, 2), in widths of the picture."""
        total = np.cumsum(angles, axis=1)  # of each link against the plane
        links = LINK * np.stack([np.cos(total), np.sin(total)], axis=2)  # (N, link, x and y)
        places: Floats = (BASE + np.cumsum(links, axis=1)).astype(np.float32)
        return places

    def off(self, states: Floats, goals: Floats) -> Floats:
        """How far (N,) elbow or tip, whichever is further, is from a goal's."""
        apart = self.joints(states[:, :2]) - self.joints(goals[:, :2])
        far: Floats = np.linalg.norm(apart, axis=2).max(axis=1)
        return far

    def render(self, states: Floats) -> NDArray[np.uint8]:
        """What is seen of states (N, 8): uint8 (N, 3, H, W), the latest picture first."""
        poses = states[:, [0, 1, 4, 5, 6, 7]].reshape(-1, 2)
        return self.draw(poses).reshape(len(states), 3, self.image_size, self.image_size)

    def draw(self, angles: Floats) -> NDArray[np.uint8]:
        """One picture of each pose (N, 2): uint8 (N, H, W), edges smoothed over a pixel."""
        parts = [self._draw(angles[i : i + PART]) for i in range(0, len(angles), PART)]
        return np.concatenate(parts)

    def _draw(self, angles: Floats) -> NDArray[np.uint8]:
        size = self.image_size
        centres = (np.arange(size, dtype=np.float32) + 0.5) / size
        ends = self.joints(angles)
        starts = np.concatenate([np.full_like(ends[:, :1], BASE), ends[:, :1]], axis=1)
        picture = np.zeros((len(angles), size, size), dtype=np.float32)
        for link, grey in enumerate(GREY):
            x = centres[None, None, :] - starts[:, link, 0, None, None]
            y = centres[None, :, None] - starts[:, link, 1, None, None]
            cos, sin = ((ends - starts)[:, link] / LINK).T[:, :, None, None]
            along = np.clip(x * cos + y * sin, 0, LINK)
            distance = np.hypot(x - along * cos, y - along * sin)
            cover = np.clip((HALF_WIDTH - distance) * size + 0.5, 0, 1)
            np.maximum(picture, grey * cover, out=picture)
        return np.rint(picture).astype(np.uint8)

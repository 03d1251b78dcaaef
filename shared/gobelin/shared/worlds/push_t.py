"""Push-T: an agent pushes a T-shaped block; physics by gym-pusht, pictures by a raster of our own.

gym-pusht (arXiv:2303.04137, §5) draws 680 x 680 pixels and scales them down; a picture of its
state is all a world model needs. A state is (agent x, y, block x, y, angle) in units of 512, an
action where the agent is drawn to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gobelin.shared.errors import ConfigError

Floats: TypeAlias = NDArray[np.float32]

SIDE = 512.0  # of the world
AGENT_RADIUS = 15.0
GOAL = (256.0, 256.0, np.pi / 4)  # x, y, angle
# The two bars of the T about its own origin, corners in order (gym_pusht add_tee, scale 30).
BARS = np.array(
    [
        [(-60, 0), (60, 0), (60, 30), (-60, 30)],
        [(-15, 30), (15, 30), (15, 120), (-15, 120)],
    ],
    dtype=np.float32,
)
BACKGROUND, GOAL_COLOUR = (255, 255, 255), (144, 238, 144)
BLOCK_COLOUR, AGENT_COLOUR = (119, 136, 153), (65, 105, 225)
REACH = 160.0  # how far from the block a scripted approach begins


@dataclass(frozen=True, eq=False)
class Episode:
    """`states` (T + 1, 5), `actions` (T, 2) in [−1, 1]: (target − 256) / 256."""

    states: Floats
    actions: Floats


def render(states: NDArray[Any], image_size: int = 64) -> NDArray[np.uint8]:
    """Pictures of states (N, 5): uint8 (N, 3, H, W), edges smoothed over a pixel."""
    scale = np.float32(SIDE / image_size)
    centres = (np.arange(image_size, dtype=np.float32) + 0.5) * scale
    ground = np.empty((3, image_size, image_size), dtype=np.float32)
    ground[:] = _column(BACKGROUND)
    _paint(ground, _tee(centres, np.array(GOAL, dtype=np.float32), scale), GOAL_COLOUR)
    pictures = np.empty((len(states), *ground.shape), dtype=np.uint8)
    for row, state in enumerate(np.asarray(states, dtype=np.float32)):
        picture = ground.copy()
        _paint(picture, _tee(centres, state[2:], scale), BLOCK_COLOUR)
        distance = np.hypot(centres - state[0], centres[:, None] - state[1])
        _paint(picture, np.clip((AGENT_RADIUS - distance) / scale + 0.5, 0, 1), AGENT_COLOUR)
        pictures[row] = np.rint(picture)
    return pictures


def _paint(picture: Floats, cover: Floats, colour: tuple[int, int, int]) -> None:
    """Lay a colour over a picture (3, H, W) where `cover` (H, W) says, in place."""
    picture += cover * (_column(colour) - picture)


def _column(colour: tuple[int, int, int]) -> Floats:
    return np.array(colour, dtype=np.float32)[:, None, None]


def _tee(centres: Floats, pose: Floats, scale: np.float32) -> Floats:
    """How much of each pixel (H, W) a T at `pose` (x, y, angle) covers."""
    x, y = centres - pose[0], (centres - pose[1])[:, None]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    across, along = cos * x + sin * y, cos * y - sin * x  # in the T's own axes
    covers = []
    for (left, low), (right, high) in zip(BARS.min(axis=1), BARS.max(axis=1), strict=True):
        inside = np.minimum(
            (right - left) / 2 - np.abs(across - (left + right) / 2),
            (high - low) / 2 - np.abs(along - (low + high) / 2),
        )
        covers.append(np.clip(inside / scale + 0.5, 0, 1))
    cover: Floats = np.maximum(*covers)
    return cover


def play(episodes: int, steps: int, seed: int, scripted: float = 0.5) -> list[Episode]:
    """Episodes of gym-pusht: a share `scripted` pushes the block about, the others wander.

    Raises ConfigError where gym-pusht is not installed.
    """
    env = _make()
    played = []
    for number in range(episodes):
        random = np.random.default_rng((seed, number))
        state, _ = env.reset(seed=int(random.integers(2**31)))
        policy = _Pusher(random) if random.random() < scripted else _Wanderer(random)
        states, actions = [state], []
        for _ in range(steps):
            target = np.clip(policy.target(states[-1]), 0, SIDE)
            actions.append(target / (SIDE / 2) - 1)
            states.append(env.step(target)[0])
        played.append(
            Episode(np.asarray(states, dtype=np.float32), np.asarray(actions, dtype=np.float32))
        )
    env.close()
    return played


class _Wanderer:
    """Goes towards a random place, and on to the next when it is near or time is up."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._place = random.uniform(0, SIDE, 2)

    def target(self, state: NDArray[Any]) -> NDArray[np.float64]:
        near = np.linalg.norm(self._place - state[:2]) < 2 * AGENT_RADIUS
        if near or self._random.random() < 0.1:
            self._place = self._random.uniform(0, SIDE, 2)
        place: NDArray[np.float64] = self._place + self._random.normal(0, 10, 2)
        return place


class _Pusher:
    """Goes beside the block, pushes through it in a random direction, and begins again."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._left = 0  # steps of this approach or push
        self._pushing = True
        self._direction = np.zeros(2)

    def target(self, state: NDArray[Any]) -> NDArray[np.float64]:
        angle = state[4]
        middle = state[2:4] + 45 * np.array([-np.sin(angle), np.cos(angle)])
        if self._left == 0:
            self._pushing = not self._pushing
            self._left = int(self._random.integers(6, 14))
            if not self._pushing:
                turn = self._random.uniform(0, 2 * np.pi)
                self._direction = np.array([np.cos(turn), np.sin(turn)])
        self._left -= 1
        along = 0.8 if self._pushing else -1.0
        place: NDArray[np.float64] = middle + along * REACH * self._direction
        return place + self._random.normal(0, 8, 2)


def _make() -> Any:
    try:
        import gym_pusht  # noqa: F401 - registers the world
        import gymnasium
    except ImportError:
        raise ConfigError(
            "Push-T needs gym-pusht, which is not installed", "pip install 'gobelin[worlds]'"
        ) from None
    return gymnasium.make("gym_pusht/PushT-v0", obs_type="state", disable_env_checker=True)

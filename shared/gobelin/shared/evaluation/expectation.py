"""Violation of expectation: is a world model surprised where physics breaks?

After LeWM (arXiv:2603.19312): episodes of a world are shown untouched and with one thing broken at
a step t*; if the model knows the world, the broken ones surprise it more around t*. Each violated
episode is paired with itself untouched, so a paired one-sided t-test tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.anomaly import auroc
from gobelin.shared.evaluation.t_test import TTest, paired_t_test
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import TwoRoom

Floats = NDArray[np.float32]

FAR = 0.3  # least jump of a teleported dot, in the world's unit
DOT_BECOMES, WALL_BECOMES = 150, 220  # grey values
BATCH = 64  # episodes looked at together


@dataclass(frozen=True)
class Setup:
    """E episodes of T steps, broken at observation t* = `at`; surprise is the mean of so many
    steps from the one that leads to it."""

    episodes: int = 100
    steps: int = 12
    at: int = 6
    around: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 2 or not 1 <= self.at <= self.steps - 1 or self.around < 1:
            what = f"{self.episodes} episodes of {self.steps} steps, broken at {self.at}"
            raise ConfigError(what, "use 2 episodes at least, and break them before the last step")

    @property
    def judged(self) -> slice:
        """The steps whose surprise counts."""
        return slice(self.at - 1, self.at - 1 + self.around)


@dataclass(frozen=True)
class Violation:
    """How one violation was taken."""

    test: TTest  # of surprise violated − untouched, paired by episode
    untouched: float  # mean surprise around t*
    violated: float
    auroc: float  # of telling violated from untouched episodes by their surprise
    noticed: float  # percent of episodes that surprise more when violated

    def facts(self) -> dict[str, float | int | None]:
        """As plain data; t is None where it is infinite."""
        return {
            "untouched": self.untouched,
            "violated": self.violated,
            "noticed": self.noticed,
            "auroc": self.auroc,
            "t": self.test.t if np.isfinite(self.test.t) else None,
            "p": self.test.p,
            "episodes": self.test.n,
        }


def two_room_violations(world: TwoRoom, setup: Setup) -> dict[str, Trajectories]:
    """The same episodes of two rooms untouched, and with each violation, of E windows each.

    Teleported: at t* the dot is somewhere else, at least FAR away, and obeys the same actions from
    there. Recoloured: from t* on the dot, or the wall, is of another grey. Shuffled: from t* on the
    pictures come in another order.
    """
    shown = world.episodes(setup.episodes, setup.steps, derive_seed(setup.seed, "expectation"))
    positions, actions, at = shown.positions, shown.actions, setup.at
    random = np.random.default_rng(derive_seed(setup.seed, "violations"))
    jumped = positions.copy()
    jumped[:, at:] = world.follow(_elsewhere(positions[:, at], random), actions[:, at:])
    untouched = _pictures(world, positions)

    def from_then_on(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate([untouched[:, :at], pictures[:, at:]], axis=1)

    seen = {
        "untouched": untouched,
        "teleported": _pictures(world, jumped),
        "dot recoloured": from_then_on(_pictures(replace(world, dot_grey=DOT_BECOMES), positions)),
        "wall recoloured": from_then_on(
            _pictures(replace(world, wall_grey=WALL_BECOMES), positions)
        ),
        "shuffled": _shuffled(untouched, at, random),
    }
    done = torch.from_numpy(actions)
    return {name: Trajectories(torch.from_numpy(x), done) for name, x in seen.items()}


def expectation(
    model: WorldModel, seen: Mapping[str, Trajectories], setup: Setup, device: str = "cpu"
) -> dict[str, Violation]:
    """How the model took each violation in `seen`, whose "untouched" it is paired with."""
    around = {name: _surprise(model, shown, setup, device) for name, shown in seen.items()}
    plain = around.pop("untouched")
    truth = torch.arange(2 * len(plain)) >= len(plain)
    found = {}
    for name, broken in around.items():
        more = (broken - plain).double()
        found[name] = Violation(
            test=paired_t_test(more.tolist()),
            untouched=float(plain.mean()),
            violated=float(broken.mean()),
            auroc=auroc(torch.cat([plain, broken]), truth),
            noticed=100 * float((more > 0).double().mean()),
        )
    return found


def require_two_room(model: WorldModel) -> TwoRoom:
    """The world in the size this model sees; raises ConfigError where it sees something else."""
    form = model.form
    if form.image_size is None or form.channels != 1 or form.actions != 2:
        what = f"the model sees {form.observation} {form.shape} under {form.actions} actions"
        raise ConfigError(what, "two rooms are grey pictures under 2 actions")
    return TwoRoom(image_size=form.image_size)


def _surprise(model: WorldModel, shown: Trajectories, setup: Setup, device: str) -> torch.Tensor:
    """Mean surprise (E,) around t*."""
    parts = []
    for start in range(0, len(shown), BATCH):
        rows = slice(start, start + BATCH)
        batch = Trajectories(shown.observations[rows], shown.actions[rows]).to(device)
        parts.append(model.surprise(batch)[:, setup.judged].mean(dim=1).cpu())
    return torch.cat(parts)


def _pictures(world: TwoRoom, positions: Floats) -> NDArray[np.uint8]:
    """Of positions (E, T + 1, 2): (E, T + 1, 1, H, W)."""
    flat = world.render(positions.reshape(-1, 2))
    return flat.reshape(*positions.shape[:2], *flat.shape[1:])


def _elsewhere(places: Floats, random: np.random.Generator) -> Floats:
    """A place for each of (E, 2), anywhere at least FAR away."""
    found = random.random(places.shape, dtype=np.float32)
    while (near := np.linalg.norm(found - places, axis=1) < FAR).any():
        found[near] = random.random((int(near.sum()), 2), dtype=np.float32)
    return found


def _shuffled(
    pictures: NDArray[np.uint8], at: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """From picture `at` on in another order, an own one for each episode, never the true one."""
    shuffled, rest = pictures.copy(), pictures.shape[1] - at
    true = np.arange(rest)
    for episode in range(len(pictures)):
        order = random.permutation(rest)
        while (order == true).all():
            order = random.permutation(rest)
        shuffled[episode, at:] = pictures[episode, at + order]
    return shuffled

"""Episodes of worlds that are simulated here: two rooms, and Push-T."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.export import write_episodes
from gobelin.shared.errors import ConfigError
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import push_t
from gobelin.shared.worlds.two_room import REGIONS, WORLD, TwoRoom

SHARD = 100  # episodes in a file
# Observations (E, T + 1, C, H, W), actions (E, T, A) and states (E, T + 1, S) of some episodes.
Shard: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def prepare_two_room(
    out: Path, episodes: int, steps: int, seed: int, by_region: bool
) -> dict[str, Any]:
    """Write so many episodes into `out`, or into a folder of it for each region of the world."""
    world = TwoRoom()
    places = REGIONS if by_region else {"": WORLD}
    for name, region in places.items():

        def shards(name: str = name, region: Any = region) -> Iterator[Shard]:
            for number, count in _counts(episodes):
                part = world.episodes(count, steps, derive_seed(seed, name, number), region)
                flat = part.positions.reshape(-1, 2)
                pictures = world.render(flat)
                seen = pictures.reshape(count, steps + 1, *pictures.shape[1:])
                yield seen, part.actions, part.positions

        _write(out / name, shards())
    return {"out": str(out), "episodes": episodes * len(places), "steps": steps, "seed": seed}


def prepare_push_t(
    out: Path, episodes: int, steps: int, seed: int, image_size: int = 64
) -> dict[str, Any]:
    """Write so many episodes into `out`; raises ConfigError where gym-pusht is not installed."""

    def shards() -> Iterator[Shard]:
        for number, count in _counts(episodes):
            played = push_t.play(count, steps, derive_seed(seed, "push-t", number))
            states = np.stack([episode.states for episode in played])
            pictures = push_t.render(states.reshape(-1, 5), image_size)
            seen = pictures.reshape(count, steps + 1, *pictures.shape[1:])
            yield seen, np.stack([episode.actions for episode in played]), states

    _write(out, shards())
    return {"out": str(out), "episodes": episodes, "steps": steps, "seed": seed}


def _counts(episodes: int) -> Iterator[tuple[int, int]]:
    """(number, episodes) of each file."""
    if episodes < 1:
        raise ConfigError(f"{episodes} episodes are none", "use --episodes ≥ 1")
    for number, start in enumerate(range(0, episodes, SHARD)):
        yield number, min(SHARD, episodes - start)


def _write(folder: Path, shards: Iterator[Shard]) -> None:
    for number, (seen, done, states) in enumerate(shards):
        write_episodes(folder / f"episodes-{number:05d}.npz", seen, done, states)

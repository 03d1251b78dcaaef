"""Surprise of recorded episodes: which of them a world model finds implausible, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gobelin.shared.data.bad_input import OnBad
from gobelin.shared.data.episodes import EpisodeSource
from gobelin.shared.data.source import open_source
from gobelin.shared.errors import ConfigError
from gobelin.shared.model.world_model import WorldModel

CHUNK = 256  # steps of an episode looked at together


@dataclass(frozen=True, eq=False)
class Surprise:
    """The energy of each step of one episode; step t leads to observation t + 1."""

    episode: str
    energy: Tensor  # (T,)

    @property
    def mean(self) -> float:
        """Over the episode."""
        return float(self.energy.mean())

    @property
    def peak(self) -> float:
        """Of the most surprising step."""
        return float(self.energy.max())

    @property
    def peak_step(self) -> int:
        """The most surprising step."""
        return int(self.energy.argmax())


def open_episodes(model: WorldModel, path: Path, on_bad: OnBad = "refuse") -> EpisodeSource:
    """Whole episodes at `path`, however short; raises DataError and ConfigError."""
    form = replace(model.form, steps=1, stride=1)
    source = open_source(path, form, on_bad=on_bad)
    if not isinstance(source, EpisodeSource):
        raise ConfigError(f"{path} is read without its episodes", "use .npz or HDF5 files")
    return source


def surprises(
    model: WorldModel, source: EpisodeSource, device: torch.device | str = "cpu"
) -> Iterator[Surprise]:
    """The surprise of every episode of a source, in its order; memory is bounded by CHUNK."""
    for number, episode in enumerate(source.episodes):
        parts = []
        for first in range(0, episode.steps, CHUNK):
            begin = max(0, first + 1 - model.history)  # what the first step is foreseen from
            stop = min(first + CHUNK, episode.steps)
            batch = source.part(number, begin, stop - begin).to(device)
            parts.append(model.surprise(batch)[0, first - begin :].cpu())
        yield Surprise(episode.name, torch.cat(parts))

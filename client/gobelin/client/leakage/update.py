"""A node's real update: the local steps of a first round, encoded as they would leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.client.inner_optimizer import learning_rate
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.codec import compress
from gobelin.shared.data import BadInput, BatchStream, Source
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector

ROUNDS = 10  # of the schedule; the first is audited, whose warm-up keeps it nearest to a gradient


@dataclass(frozen=True)
class Setting:
    """One point of the curve."""

    local_steps: int  # H
    batch_size: int  # B


@dataclass(frozen=True)
class Update:
    """What left the node, and what the audit alone knows of how it was made."""

    base: ParameterVector
    delta: ParameterVector  # as decoded by who receives it
    local: LocalSteps
    lr_sum: float  # Σ of the learning rates of the steps
    first: npt.NDArray[np.int64]  # (B,) samples of the first batch
    seen: npt.NDArray[np.int64]  # of the node's samples, those in any batch, ascending

    @property
    def middle(self) -> ParameterVector:
        """Half-way between base and trained vector: a surrogate of the steps' path."""
        return ParameterVector(self.base.schema, self.base.values + self.delta.values / 2)

    @property
    def trained(self) -> ParameterVector:
        """Base plus delta."""
        return ParameterVector(self.base.schema, self.base.values + self.delta.values)


class Planted:
    """A source with canaries behind its own samples."""

    labels = None
    class_names = None
    skipped = BadInput()
    block = None

    def __init__(self, source: Source[Any], canaries: Tensor) -> None:
        self._source, self._canaries = source, canaries

    def __len__(self) -> int:
        return len(self._source) + len(self._canaries)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """The samples at `indices` (B,), those from len(source) on canaries."""
        own = indices < len(self._source)
        places = torch.from_numpy(indices - len(self._source))
        found = self._canaries[places.clamp(min=0)].clone()
        if own.any():
            found[torch.from_numpy(own)] = self._source.read(indices[own])
        return found


def make_update(
    recipe: Recipe,
    modality: str | None,
    source: Source[Any],
    base: ParameterVector,
    setting: Setting,
    codec: str,
    seed: int,
    node_seed: int,
) -> Update:
    """Train the local steps of a first round with the real trainer, and encode the delta.

    Raises what the trainer raises: DataError on a batch of one, DivergedError.
    """
    stream = BatchStream(source, setting.batch_size, node_seed)
    trainer = LocalTrainer(recipe, stream.batch, modality=modality)
    steps = setting.local_steps
    local = LocalSteps(0, steps, ROUNDS * steps, seed, node_seed)
    trained, _ = trainer.train(base, local)
    seen = np.unique(np.concatenate([stream.indices(step) for step in local.range]))
    return Update(
        base=base,
        delta=compress(codec, trained - base, None).payload.decode(),
        local=local,
        lr_sum=sum(learning_rate(s, local.total_steps, recipe.inner) for s in local.range),
        first=stream.indices(0),
        seen=seen,
    )

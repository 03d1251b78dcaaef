"""A part of a source, such as the images a member holds out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.source import Source


class Subset:
    """The images of `source` at `indices`, in that order."""

    def __init__(self, source: Source, indices: npt.NDArray[np.int64]) -> None:
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        labels = source.labels
        self.labels = None if labels is None else labels[torch.from_numpy(self._indices)]
        self.class_names = source.class_names

    @property
    def block(self) -> int | None:
        """As of the source: sorted indices keep neighbours in the same blocks."""
        block = self._source.block
        if block is None:
            return None
        return max(1, block * len(self._indices) // max(1, len(self._source)))

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """The images at `indices` (B,): uint8 (B, C, H, W)."""
        return self._source.read(self._indices[indices])

"""A part of a source, such as the samples a member holds out."""

from __future__ import annotations

from typing import Generic

import numpy as np
import numpy.typing as npt
import torch

from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.data.source import Samples_co, Source


class Subset(Generic[Samples_co]):
    """The samples of `source` at `indices`, in that order."""

    def __init__(self, source: Source[Samples_co], indices: npt.NDArray[np.int64]) -> None:
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

    @property
    def skipped(self) -> BadInput:
        """As of the source."""
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: npt.NDArray[np.int64]) -> Samples_co:
        """The samples at `indices` (B,), as the source reads them."""
        return self._source.read(self._indices[indices])

"""Samples that lie in memory, or in a file mapped into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.errors import DataError

# What a sample is, by the array's type and dimensions.
LAYOUTS = {
    ("uint8", 4): "images (N, C, H, W)",
    ("uint8", 5): "clips (N, T, C, H, W)",
    ("uint8", 2): "text (N, L)",
    ("float32", 3): "series (N, T, C)",
}


class MemorySource:
    """Samples as one array: uint8 images, clips or text, or float32 series; cheap in any order."""

    block: int | None = None

    def __init__(
        self,
        samples: npt.NDArray[Any] | Tensor,  # (N, ...)
        labels: Tensor | None = None,  # (N,)
        class_names: tuple[str, ...] | None = None,
        skipped: BadInput | None = None,
    ) -> None:
        self._samples = samples.numpy() if isinstance(samples, Tensor) else samples
        found = f"{self._samples.dtype} {self._samples.shape}"
        if (str(self._samples.dtype), self._samples.ndim) not in LAYOUTS:
            raise DataError(f"samples are {found}, not uint8 images, clips, text or float32 series")
        if labels is not None and labels.shape != (len(self._samples),):
            raise DataError(f"{len(self._samples)} samples have {len(labels)} labels")
        self.labels = None if labels is None else labels.to(torch.int64)
        self.class_names = class_names
        self.skipped = skipped or BadInput()

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """The samples at `indices` (B,): (B, ...), a copy."""
        return torch.from_numpy(np.ascontiguousarray(self._samples[indices]))

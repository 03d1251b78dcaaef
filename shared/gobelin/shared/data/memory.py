"""Images that lie in memory, or in a file mapped into it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.errors import DataError


class MemorySource:
    """Images as one uint8 array (N, C, H, W); cheap in any order."""

    block: int | None = None

    def __init__(
        self,
        images: npt.NDArray[np.uint8] | Tensor,  # (N, C, H, W)
        labels: Tensor | None = None,  # (N,)
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self._images = images.numpy() if isinstance(images, Tensor) else images
        if self._images.ndim != 4 or self._images.dtype != np.uint8:
            found = f"{self._images.dtype} {self._images.shape}"
            raise DataError(f"images are {found}, not uint8 (N, C, H, W)")
        if labels is not None and labels.shape != (len(self._images),):
            raise DataError(f"{len(self._images)} images have {len(labels)} labels")
        self.labels = None if labels is None else labels.to(torch.int64)
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """The images at `indices` (B,): uint8 (B, C, H, W), a copy."""
        return torch.from_numpy(np.ascontiguousarray(self._images[indices]))

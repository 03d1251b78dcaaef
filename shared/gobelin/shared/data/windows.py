"""Windows of one length over rows that lie in memory or in a mapped file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.errors import DataError

Indices = npt.NDArray[np.int64]


class WindowSource:
    """Window i holds the rows from starts[i] on, lengths[i] ≤ length of them, then `fill`."""

    block: int | None = None

    def __init__(
        self,
        rows: npt.NDArray[Any],  # (rows, ...)
        windows: tuple[Indices, Indices],  # starts (N,), lengths (N,)
        length: int,
        fill: float,
        labels: Tensor | None,
        class_names: tuple[str, ...] | None,
        skipped: BadInput,
    ) -> None:
        self._rows, self._length, self._fill = rows, length, fill
        self._starts, self._lengths = windows
        self.labels, self.class_names, self.skipped = labels, class_names, skipped

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, indices: Indices) -> Tensor:
        """The windows at `indices` (B,): (B, length, ...)."""
        shape = (len(indices), self._length, *self._rows.shape[1:])
        batch = np.full(shape, self._fill, dtype=self._rows.dtype)
        for row, index in enumerate(indices):
            start, length = self._starts[index], self._lengths[index]
            batch[row, :length] = self._rows[start : start + length]
        return torch.from_numpy(batch)


def starts_of(rows: int, length: int, stride: int) -> Indices:
    """Where the windows of a series of `rows` rows begin: those that lie inside it, or 0 alone."""
    return np.arange(0, max(rows - length, 0) + 1, stride, dtype=np.int64)


def number_classes(names: list[Any]) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels int64 (N,) and class names; None without labels. Integers stay as they are.

    Raises DataError where some have labels and some have none.
    """
    unlabelled = sum(name is None for name in names)
    if unlabelled == len(names):
        return None, None
    if unlabelled:
        what = f"{unlabelled} of {len(names)} texts or series have no label"
        raise DataError(what, "label all or none")
    if all(isinstance(name, int) for name in names):
        return torch.tensor(names, dtype=torch.int64), None
    texts = [str(name) for name in names]
    classes = tuple(sorted(set(texts)))
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[text] for text in texts], dtype=torch.int64), classes

"""Samples kept encoded, decoded when they are read; unreadable ones are refused or stood in for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.errors import DataError

CHUNK = 2**24  # bytes decoded at once while a store is brought into memory

Indices = npt.NDArray[np.int64]
Pixels: TypeAlias = npt.NDArray[np.uint8]


class EncodedStore(Protocol):
    """Where encoded images or clips lie: a folder, the rows of a table, a tar file, videos."""

    @property
    def where(self) -> Path:
        """The path an operator knows it by."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one decoded sample."""

    @property
    def fault(self) -> str:
        """What an unreadable sample is: "not a readable image"."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (len,)."""

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def block(self) -> int | None: ...

    def __len__(self) -> int: ...

    def decode(self, indices: Indices) -> Sequence[Pixels | None]:
        """The decoded samples at `indices` (B,); None stands for each that is unreadable."""

    def name(self, index: int) -> str:
        """What an operator finds sample `index` by."""


def open_encoded(
    store: EncodedStore, memory: int, skipped: BadInput
) -> MemorySource | EncodedSource:
    """The samples of a store: in memory when all of them decoded fit into `memory` bytes."""
    source = EncodedSource(store, skipped)
    return source.in_memory() if len(store) * int(np.prod(store.shape)) <= memory else source


class EncodedSource:
    """Samples decoded each time they are read: for stores that do not fit into memory."""

    def __init__(self, store: EncodedStore, skipped: BadInput) -> None:
        self._store, self.skipped = store, skipped
        self.labels, self.class_names, self.block = store.labels, store.class_names, store.block
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self._store)

    def read(self, indices: Indices) -> Tensor:
        """The samples at `indices` (B,): uint8 (B, ...); raises DataError on a bad one.

        When bad ones are skipped, the next readable one of the same class stands in: the length of
        the source, and with it the order of the batches, must not change under way.
        """
        samples = np.empty((len(indices), *self._store.shape), dtype=np.uint8)
        for row, sample in enumerate(self._store.decode(indices)):
            samples[row] = self._stand_in(int(indices[row])) if sample is None else sample
        return torch.from_numpy(samples)

    def in_memory(self) -> MemorySource:
        """Every sample decoded once; without the unreadable ones when those are skipped."""
        samples = np.empty((len(self), *self._store.shape), dtype=np.uint8)
        good: list[int] = []
        chunk = max(1, CHUNK // int(np.prod(self._store.shape)))
        for start in range(0, len(self), chunk):
            indices = np.arange(start, min(start + chunk, len(self)))
            for index, sample in zip(indices.tolist(), self._store.decode(indices), strict=True):
                if sample is None:
                    self._skip(index)
                else:
                    samples[len(good)] = sample
                    good.append(index)
        if not good:
            raise self._nothing_readable()
        labels = None if self.labels is None else self.labels[torch.tensor(good)]
        return MemorySource(samples[: len(good)], labels, self.class_names, self.skipped)

    def _stand_in(self, index: int) -> Pixels:
        """The next readable sample of the same class after an unreadable one."""
        self._skip(index)
        for step in range(1, len(self)):
            other = (index + step) % len(self)
            same = self.labels is None or self.labels[other] == self.labels[index]
            if not same or other in self._bad:
                continue
            sample = self._store.decode(np.array([other]))[0]
            if sample is not None:
                return sample
            self._skip(other)
        raise self._nothing_readable()

    def _skip(self, index: int) -> None:
        """Count and log an unreadable sample once, or refuse it."""
        if index not in self._bad:
            self.skipped.meet(self._store.name(index), self._store.fault)
            self._bad.add(index)

    def _nothing_readable(self) -> DataError:
        what = self._store.fault.removeprefix("not a ")
        return DataError(f"{self._store.where} holds no {what}", "point at other data")

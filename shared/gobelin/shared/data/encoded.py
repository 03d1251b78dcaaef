"""Images kept encoded, decoded when they are read, and what to do about the unreadable ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.decode import Image, ImageFormat, try_decode_many
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.errors import DataError

log = logging.getLogger(__name__)

REMEDY = 'mend or remove it, or set on_bad = "skip"'
CHUNK = 1024  # images decoded at once while a store is brought into memory

Indices = npt.NDArray[np.int64]


class EncodedStore(Protocol):
    """Where encoded images lie: a folder, or the rows of a table."""

    @property
    def where(self) -> Path:
        """The path an operator knows it by."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (len,)."""

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def block(self) -> int | None: ...

    def __len__(self) -> int: ...

    def fetch(self, indices: Indices) -> Sequence[Path | bytes]:
        """The encoded images at `indices` (B,)."""

    def name(self, index: int) -> str:
        """What an operator finds image `index` by."""


def open_encoded(
    store: EncodedStore, form: ImageFormat, memory: int, skip_bad: bool
) -> MemorySource | EncodedImages:
    """The images of a store: in memory when all of them decoded fit into `memory` bytes."""
    source = EncodedImages(store, form, skip_bad)
    return source.in_memory() if len(store) * form.bytes <= memory else source


class EncodedImages:
    """Images decoded each time they are read: for stores that do not fit into memory."""

    def __init__(self, store: EncodedStore, form: ImageFormat, skip_bad: bool) -> None:
        self._store, self._form, self._skip_bad = store, form, skip_bad
        self.labels, self.class_names, self.block = store.labels, store.class_names, store.block
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self._store)

    @property
    def skipped(self) -> int:
        """How many unreadable images were met so far."""
        return len(self._bad)

    def read(self, indices: Indices) -> Tensor:
        """The images at `indices` (B,): uint8 (B, C, H, W); raises DataError on a bad one.

        When bad ones are skipped, the next readable image of the same class stands in: the length
        of the source, and with it the order of the batches, must not change under way.
        """
        images = np.empty((len(indices), *self._form.shape), dtype=np.uint8)
        for row, image in enumerate(self._decode(indices)):
            images[row] = self._stand_in(int(indices[row])) if image is None else image
        return torch.from_numpy(images)

    def in_memory(self) -> MemorySource:
        """Every image decoded once; without the unreadable ones when those are skipped."""
        images = np.empty((len(self), *self._form.shape), dtype=np.uint8)
        good: list[int] = []
        for start in range(0, len(self), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(self)))
            for index, image in zip(indices.tolist(), self._decode(indices), strict=True):
                if image is None:
                    self._skip(index)
                else:
                    images[len(good)] = image
                    good.append(index)
        if not good:
            raise self._nothing_readable()
        labels = None if self.labels is None else self.labels[torch.tensor(good)]
        return MemorySource(images[: len(good)], labels, self.class_names)

    def _decode(self, indices: Indices) -> list[Image | None]:
        return try_decode_many(self._store.fetch(indices), self._form)

    def _stand_in(self, index: int) -> Image:
        """The next readable image of the same class after an unreadable one."""
        self._skip(index)
        for step in range(1, len(self)):
            other = (index + step) % len(self)
            same = self.labels is None or self.labels[other] == self.labels[index]
            if not same or other in self._bad:
                continue
            image = self._decode(np.array([other]))[0]
            if image is not None:
                return image
            self._skip(other)
        raise self._nothing_readable()

    def _skip(self, index: int) -> None:
        """Count and log an unreadable image, or refuse it."""
        name = self._store.name(index)
        if not self._skip_bad:
            raise DataError(f"{name} is not a readable image", REMEDY)
        if index not in self._bad:
            self._bad.add(index)
            log.warning("skipped %s: not a readable image (%d so far)", name, len(self._bad))

    def _nothing_readable(self) -> DataError:
        return DataError(f"{self._store.where} holds no readable image", "point at other data")

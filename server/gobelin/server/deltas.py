"""The open round's deltas on disk, so that memory does not grow with the number of nodes.

Scratch: what they decode from is in the journal, so nothing here is flushed, and what a killed
aggregator left behind is removed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor

from gobelin.server.fixed_point import LIMIT
from gobelin.server.scratch import scratch
from gobelin.shared.errors import StateError
from gobelin.shared.fragments import Fragment
from gobelin.shared.vector import ParameterVector


class GroupedDeltas:
    """Admitted deltas of a round, kept apart by the groups of its fragment."""

    def __init__(self, folder: Path, fragment: Fragment, modalities: Collection[str]) -> None:
        self._folder, self._fragment = folder, fragment
        self._groups = fragment.groups(modalities)
        shutil.rmtree(folder, ignore_errors=True)
        self.by_group = {
            group.group: RoundDeltas(folder / group.group, group.schema.size)
            for group in self._groups
        }

    def add(self, name: str, modality: str, delta: ParameterVector) -> None:
        """Keep the delta that a member of a modality has sent of its part of the fragment.

        Raises ValueError as `RoundDeltas.add` does.
        """
        part = self._fragment.part(modality)
        for group in self._groups:
            if group.trained_by(modality):
                self.by_group[group.group].add(name, group.within(part).of(delta))

    def keep_only(self, names: Collection[str]) -> None:
        """Let go of all other deltas."""
        for deltas in self.by_group.values():
            deltas.keep_only(names)

    def remove(self) -> None:
        """The round is over: nothing of it stays."""
        for deltas in self.by_group.values():
            deltas.remove()
        shutil.rmtree(self._folder, ignore_errors=True)


class RoundDeltas:
    """Admitted deltas by name; as `Deltas`, in the order of the names."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._files: dict[str, int] = {}  # open file descriptors
        self._order: list[str] = []
        self._peaks: dict[str, float] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self._size

    @property
    def names(self) -> list[str]:
        """Names of the deltas, in order."""
        return self._order

    def __len__(self) -> int:
        return len(self._files)

    def add(self, name: str, delta: ParameterVector) -> None:
        """Keep a delta until the round is over.

        Raises ValueError on another size or on |δ| > LIMIT anywhere; nothing of it is kept then.
        """
        if delta.values.shape != (self._size,):
            raise ValueError(f"a delta of {delta.values.numel()} parameters, not {self._size}")
        peak = float(max(map(abs, torch.aminmax(delta.values)))) if self._size else 0.0
        if peak > LIMIT:
            raise ValueError(f"a delta exceeds {LIMIT}")
        path = self._folder / f"{name}.f32"
        path.write_bytes(delta.canonical_bytes)
        self._files[name] = os.open(path, os.O_RDONLY)
        self._order = sorted(self._files)
        self._peaks[name] = peak

    def peak(self, index: int) -> float:
        """The largest |δ| of one delta."""
        return self._peaks[self._order[index]]

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one delta: fp32 (end − start,)."""
        values = scratch(f"delta {index}", (end - start,), torch.float32)
        into, name = values.numpy(), self._order[index]
        if os.preadv(self._files[name], [into.data], into.itemsize * start) != into.nbytes:
            raise StateError(
                f"{self._folder / name}.f32 is shorter than it was written",
                "look at the disk, then run `gobelin aggregator up` again",
            )
        if sys.byteorder == "big":
            into.byteswap(inplace=True)
        return values

    def keep_only(self, names: Iterable[str]) -> None:
        """Let go of all other deltas."""
        for name in set(self._files) - set(names):
            os.close(self._files.pop(name))
            (self._folder / f"{name}.f32").unlink()
        self._order = sorted(self._files)

    def remove(self) -> None:
        """The round is over: nothing of it stays."""
        self.keep_only(())
        shutil.rmtree(self._folder, ignore_errors=True)

"""A stream of batches: a pure function of seed and step, so a step number is all a resume needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.source import Samples_co, Source
from gobelin.shared.errors import DataError

WINDOW = 4  # blocks among which samples are shuffled


class BatchStream(Generic[Samples_co]):
    """Shuffled epochs without replacement; the rest of one epoch begins the next one's batch.

    Where a source reads cheaply within blocks only, blocks are shuffled first and samples then
    within windows of a few blocks: each block is read about once an epoch.
    """

    def __init__(
        self, source: Source[Samples_co], batch_size: int, seed: int, window: int = WINDOW
    ) -> None:
        if len(source) == 0:
            raise DataError("the data source holds no samples", "point at one with some")
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} samples cannot be drawn", "give 1 or more")
        self._source, self._batch_size = source, batch_size
        self._seed, self._window = seed, window
        self._epochs: dict[int, EpochOrder] = {}

    def batch(self, step: int) -> Samples_co:
        """The batch of `step` ≥ 0, as the source reads it."""
        return self._source.read(self.indices(step))

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Which samples make up the batch of `step`: (B,)."""
        parts, samples = [], len(self._source)
        start, end = step * self._batch_size, (step + 1) * self._batch_size
        while start < end:
            epoch, offset = divmod(start, samples)
            stop = min(samples, offset + end - start)
            parts.append(self._epoch(epoch).take(offset, stop))
            start += stop - offset
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> EpochOrder:
        if epoch not in self._epochs:
            # Two epochs meet in a batch; older ones are not needed again.
            self._epochs = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            block = self._source.block or len(self._source)
            self._epochs[epoch] = EpochOrder(
                len(self._source), block, self._window, (self._seed, epoch)
            )
        return self._epochs[epoch]


@dataclass
class EpochOrder:
    """The order of one epoch: every sample once. Windows are shuffled when they are needed."""

    samples: int
    block: int
    window: int
    seed: tuple[int, ...]
    _starts: npt.NDArray[np.int64] = field(init=False)  # of each window, and the end
    _blocks: npt.NDArray[np.int64] = field(init=False)  # in the order of this epoch
    _current: tuple[int, npt.NDArray[np.int64]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        count = -(-self.samples // self.block)
        self._blocks = np.random.default_rng(self.seed).permutation(count)
        sizes = np.minimum(self.block, self.samples - self._blocks * self.block)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        self._starts = np.append(ends[:-1][:: self.window], self.samples)

    def take(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The samples at positions start ≤ p < stop of this epoch."""
        parts = []
        while start < stop:
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            first, end = int(self._starts[number]), int(self._starts[number + 1])
            upto = min(stop, end)
            parts.append(self._shuffled(number)[start - first : upto - first])
            start = upto
        return np.concatenate(parts)

    def _shuffled(self, number: int) -> npt.NDArray[np.int64]:
        """The samples of one window, shuffled; the last window asked for is kept."""
        if self._current is None or self._current[0] != number:
            chosen = self._blocks[number * self.window : (number + 1) * self.window]
            members = [
                np.arange(b * self.block, min(self.samples, (b + 1) * self.block)) for b in chosen
            ]
            rng = np.random.default_rng((*self.seed, number))
            self._current = (number, rng.permutation(np.concatenate(members)))
        return self._current[1]

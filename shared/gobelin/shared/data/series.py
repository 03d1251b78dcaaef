"""Series of any number of channels: windows, at the recipe's rate, of CSV, Parquet and .npz."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import SeriesFormat
from gobelin.shared.data.npz import npz_files
from gobelin.shared.data.resample import Resampler
from gobelin.shared.data.row_groups import one_split
from gobelin.shared.data.series_files import (
    NoTable,
    Piece,
    csv_files,
    read_csv,
    read_series_npz,
    read_series_tables,
)
from gobelin.shared.data.spill import Spill
from gobelin.shared.data.windows import WindowSource, number_classes, starts_of
from gobelin.shared.errors import DataError

CHECKED = 2**18  # rows looked at together
EMPTY = "an empty series"

Indices = npt.NDArray[np.int64]
Read = Callable[[Path, int, int], Iterator[Piece]]


def finds_csv(path: Path) -> bool:
    """Whether `path` is a CSV file, or a folder with some."""
    return bool(csv_files(path))


def open_csv(path: Path, form: SeriesFormat, memory: int, on_bad: OnBad) -> WindowSource:
    """Open CSV files as series_files.read_csv reads them."""
    return _open(path, csv_files(path), read_csv, form, memory, on_bad)


def open_series_table(path: Path, form: SeriesFormat, memory: int, on_bad: OnBad) -> WindowSource:
    """Open Parquet or Arrow files as series_files.read_series_tables reads them."""
    return _open(path, one_split(path), read_series_tables, form, memory, on_bad)


def open_series_npz(path: Path, form: SeriesFormat, memory: int, on_bad: OnBad) -> WindowSource:
    """Open .npz files as series_files.read_series_npz reads them."""
    return _open(path, npz_files(path), read_series_npz, form, memory, on_bad)


def _open(
    path: Path, files: list[Path], read: Read, form: SeriesFormat, memory: int, on_bad: OnBad
) -> WindowSource:
    """Gather all series, in memory or spilled to disk, and cut those into windows that fit."""
    skipped = BadInput(on_bad)
    gathered = Gathered(form, memory, skipped)
    for file in files:
        gathered.add(read(file, form.channels, memory))
    rows = gathered.rows.finish()
    owners, starts, lengths = _windows(gathered, form, skipped)
    good = np.ones(len(starts), dtype=np.bool_)
    for index, flaw in _flawed(rows, starts, lengths, form.missing):
        first = starts[index] - gathered.starts[owners[index]]
        name = f"{gathered.names[owners[index]]}, steps {first} to {first + lengths[index] - 1}"
        skipped.meet(name, flaw)
        good[index] = False
    owners, starts, lengths = owners[good], starts[good], lengths[good]
    if not len(starts):
        raise DataError(f"{path} holds no window that can be used", "point at other data")
    of_series, class_names = number_classes(gathered.labels)
    labels = None if of_series is None else of_series[owners]
    return WindowSource(rows, (starts, lengths), form.length, np.nan, labels, class_names, skipped)


class Gathered:
    """The rows of all series, one after another, at the recipe's rate."""

    def __init__(self, form: SeriesFormat, memory: int, skipped: BadInput) -> None:
        self._form, self._skipped = form, skipped
        self.rows = Spill(np.float32, (form.channels,), memory)
        self.starts: list[int] = []
        self.names: list[str] = []
        self.labels: list[int | str | None] = []
        self._resampler: Resampler | None = None
        self._seen = 0  # rows of the open series as they were read
        self._broken = False  # the open series is bad: what follows of it is left out

    def add(self, pieces: Iterable[Piece]) -> None:
        """Add the series of one file."""
        last: tuple[Any, Any] | None = None
        try:
            for piece in pieces:
                last = self._add_piece(piece, last)
        except NoTable as error:
            # What was read before is whole rows, but who knows where the damage begins.
            if last is not None:
                self._drop()
            self._skipped.meet(error.file, "no table of numbers")
            return
        self._close()

    def _add_piece(self, piece: Piece, last: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
        """Add runs of rows of one series and label; the last of them stays open."""
        count = len(piece.values)
        if not count:
            self._skipped.meet(piece.file, EMPTY)
        changes = np.zeros(count, dtype=np.bool_)
        for column in (piece.series, piece.labels):
            if column is not None:
                changes[1:] |= column[1:] != column[:-1]
        for rows in np.split(np.arange(count), np.flatnonzero(changes)):
            if not len(rows):
                continue
            begin, end = int(rows[0]), int(rows[-1]) + 1
            key = tuple(None if c is None else c[begin] for c in (piece.series, piece.labels))
            if last is None or key != last:
                if last is not None:
                    self._close()
                self._begin(piece, key)
            last = (key[0], key[1])
            self._extend(piece, begin, end)
        return last

    def _begin(self, piece: Piece, key: tuple[Any, ...]) -> None:
        series, label = key
        self.starts.append(self.rows.rows)
        self.names.append(piece.file if series is None else f"{piece.file}, series {series}")
        self.labels.append(label.item() if isinstance(label, np.generic) else label)
        rate = self._form.rate
        self._resampler = None if rate is None else Resampler(rate)
        self._seen, self._broken = 0, False

    def _extend(self, piece: Piece, begin: int, end: int) -> None:
        if self._broken:
            return
        values = piece.values[begin:end]
        if self._resampler is None:
            self._append(values)
            return
        try:
            self._append(self._resampler.push(self._times(piece, begin, end), values))
        except ValueError:
            name = self.names[-1]
            self._drop()
            self._broken = True
            self._skipped.meet(name, "a series whose times do not increase")

    def _times(self, piece: Piece, begin: int, end: int) -> npt.NDArray[np.float64]:
        """When the rows were measured, in seconds."""
        if piece.times is not None:
            return piece.times[begin:end]
        if piece.rate is None:
            raise DataError(
                f"{piece.file} has neither a column 'time' nor a rate; the recipe's is "
                f"{self._form.rate} Hz",
                "add a column 'time' in seconds",
            )
        self._seen += end - begin
        return np.arange(self._seen - (end - begin), self._seen) / piece.rate

    def _append(self, values: npt.NDArray[np.float64]) -> None:
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and found later
            self.rows.append(values.astype(np.float32))

    def _close(self) -> None:
        if self._resampler is not None and not self._broken:
            self._append(self._resampler.finish())
        self._resampler = None

    def _drop(self) -> None:
        """Forget the open series."""
        self.rows.truncate(self.starts.pop())
        self.names.pop()
        self.labels.pop()
        self._resampler = None


def _windows(
    gathered: Gathered, form: SeriesFormat, skipped: BadInput
) -> tuple[Indices, Indices, Indices]:
    """The series each window is of, where it begins in all rows, and its length: (N,) each."""
    owners: list[Indices] = [np.empty(0, np.int64)]
    starts: list[Indices] = [np.empty(0, np.int64)]
    lengths: list[Indices] = [np.empty(0, np.int64)]
    ends = [*gathered.starts, gathered.rows.rows][1:]
    for number, (start, end) in enumerate(zip(gathered.starts, ends, strict=True)):
        rows = end - start
        if not rows:
            skipped.meet(gathered.names[number], EMPTY)
        elif rows < form.length and not form.missing:
            skipped.meet(gathered.names[number], "a series shorter than a window")
        else:
            found = start + starts_of(rows, form.length, form.stride)
            starts.append(found)
            owners.append(np.full(len(found), number, dtype=np.int64))
            lengths.append(np.full(len(found), min(rows, form.length), dtype=np.int64))
    return np.concatenate(owners), np.concatenate(starts), np.concatenate(lengths)


def _flawed(
    rows: npt.NDArray[np.float32], starts: Indices, lengths: Indices, missing: bool
) -> Iterator[tuple[int, str]]:
    """The windows that cannot be trained on, and why."""
    first = 0
    while first < len(starts):
        begin = starts[first]
        last = int(np.searchsorted(starts, begin + CHECKED, side="right"))
        stop = int((starts[first:last] + lengths[first:last]).max())
        part = rows[begin:stop]
        empty = np.isnan(part)
        sums = [
            np.concatenate([[0], np.cumsum(flags)])
            for flags in (np.isinf(part).any(axis=1), empty.any(axis=1), ~empty.all(axis=1))
        ]
        here = starts[first:last] - begin
        infinite, holes, known = (s[here + lengths[first:last]] - s[here] for s in sums)
        bad = (infinite > 0) | (known == 0) | ((holes > 0) & (not missing))
        for row in np.flatnonzero(bad).tolist():
            if infinite[row]:
                yield first + row, "a window with an infinite value"
            elif not missing:
                yield first + row, "a window with a missing value"
            else:
                yield first + row, "a window without any value"
        first = last

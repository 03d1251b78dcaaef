"""Rows gathered while files are read: in memory while they fit, else in a file without a name."""

from __future__ import annotations

import tempfile
from typing import IO, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


class Spill(Generic[Scalar]):
    """Rows of one shape, appended by pieces.

    Beyond `memory` bytes they go to an unnamed temporary file: nothing private outlives the
    process, and the pages of the mapped file are the system's to drop.
    """

    def __init__(self, dtype: type[Scalar], row: tuple[int, ...], memory: int) -> None:
        self._dtype, self._row, self._memory = np.dtype(dtype), row, memory
        self._pieces: list[npt.NDArray[Scalar]] = []
        self._kept = 0  # bytes
        self._file: IO[bytes] | None = None
        self.rows = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows (n, ...)."""
        piece: npt.NDArray[Scalar] = np.ascontiguousarray(rows, dtype=self._dtype)
        self.rows += len(piece)
        if self._file is not None:
            self._file.write(piece.data)
            return
        self._pieces.append(piece.copy() if piece.base is not None else piece)
        self._kept += piece.nbytes
        if 2 * self._kept > self._memory:  # for the pieces are joined in the end
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its rows
            for kept in self._pieces:
                self._file.write(kept.data)
            self._pieces = []

    def truncate(self, rows: int) -> None:
        """Forget all but the first `rows` rows."""
        if self._file is not None:
            size = rows * int(np.prod(self._row)) * self._dtype.itemsize
            self._file.seek(size)
            self._file.truncate()
        else:
            spare = self.rows - rows
            while spare:
                last = self._pieces.pop()
                if len(last) > spare:
                    self._pieces.append(last[: len(last) - spare])
                spare = max(0, spare - len(last))
            self._kept = sum(piece.nbytes for piece in self._pieces)
        self.rows = rows

    def finish(self) -> npt.NDArray[Scalar]:
        """All rows (rows, ...), in memory or mapped."""
        shape = (self.rows, *self._row)
        if self._file is None:
            empty = np.empty((0, *self._row), dtype=self._dtype)
            return np.concatenate([empty, *self._pieces])
        self._file.flush()
        if not self.rows:
            return np.empty(shape, dtype=self._dtype)
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=shape)

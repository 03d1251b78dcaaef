"""Files of series: CSV, Parquet or Arrow, and .npz, read by pieces of neighbouring rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.npz import read_npz
from gobelin.shared.data.row_groups import open_row_groups, pyarrow
from gobelin.shared.errors import DataError

TIME, LABEL, SERIES = "time", "label", "series"  # columns that are no channels
RATE = b"rate"  # Hz, in the metadata of a Parquet or Arrow schema
ROWS = 2**16  # of an array, in a piece

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Piece:
    """Neighbouring rows of one file: columns of n rows each, where the file has them.

    A row of another `series` or `label` than the one before begins a new series, and so does the
    first row of a file. A piece without rows stands for a series without any.
    """

    file: str
    values: Floats  # (n, C)
    times: Floats | None = None  # seconds
    labels: npt.NDArray[Any] | None = None
    series: npt.NDArray[Any] | None = None
    rate: float | None = None  # Hz, of a file without times


class NoTable(Exception):
    """A file, or the rest of it, cannot be read as numbers."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.file = file


def csv_files(path: Path) -> list[Path]:
    """The .csv files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if path.suffix == ".csv" else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix == ".csv" and p.is_file())


def read_csv(file: Path, channels: int, memory: int) -> Iterator[Piece]:
    """A CSV file with a line of column names; an empty cell is a missing value."""
    pa = pyarrow()
    import pyarrow.csv as pc

    block = pc.ReadOptions(block_size=max(2**16, min(2**22, memory // 8)), use_threads=False)
    try:
        schema = pc.open_csv(file, read_options=block).schema
        names = _channels(file, schema, channels)
        types = pc.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()))
        rows = 0
        for batch in pc.open_csv(file, read_options=block, convert_options=types):
            rows += batch.num_rows
            if batch.num_rows:
                yield _piece(file, batch, names, None)
    except pa.ArrowException:
        raise NoTable(file.name) from None
    if not rows:
        yield Piece(file.name, np.empty((0, channels)))


def read_series_tables(file: Path, channels: int, memory: int) -> Iterator[Piece]:
    """A Parquet or Arrow file: a column a channel, `time`, `label` and `series` where wanted."""
    groups = open_row_groups([file], memory)
    names = _channels(file, groups.schema, channels)
    others = [name for name in (TIME, LABEL, SERIES) if name in groups.schema.names]
    text = (groups.schema.metadata or {}).get(RATE)
    if not groups.sizes:
        yield Piece(file.name, np.empty((0, channels)))
    for table in groups.tables([*names, *others]):
        yield _piece(file, table, names, None if text is None else _rate(file, text))


def read_series_npz(file: Path, channels: int, memory: int) -> Iterator[Piece]:
    """A .npz file: `values` (N, T, C), or (rows, C) with `lengths` (N,), or one series (T, C).

    Beside it may be `time` as `values` without C, `labels` (N,), `class_names` and `rate`.
    """
    arrays = read_npz(file, memory)
    values = arrays.get("values")
    if values is None or values.ndim not in (2, 3) or values.dtype.kind not in "fiu":
        found = "no such array" if values is None else f"{values.dtype} {values.shape}"
        raise DataError(f"{file} has {found} as `values`", "make it (N, T, C) or (rows, C) numbers")
    lengths = _lengths(file, values, arrays.get("lengths"))
    rows = values.reshape(-1, values.shape[-1])
    if rows.shape[1] != channels:
        raise _other_width(file, rows.shape[1], channels)
    times = arrays.get(TIME)
    if times is not None and times.size != len(rows):
        raise DataError(
            f"{file} has {times.size} times for {len(rows)} rows", "give one time a row"
        )
    labels = _npz_labels(file, arrays, len(lengths))
    rate = float(arrays["rate"]) if "rate" in arrays else None
    for number in np.flatnonzero(lengths == 0).tolist():
        yield Piece(f"{file.name}, series {number}", np.empty((0, channels)))
    ends = np.cumsum(lengths)
    for start in range(0, len(rows), ROWS):
        stop = min(start + ROWS, len(rows))
        owner = np.searchsorted(ends, np.arange(start, stop), side="right")
        yield Piece(
            file.name,
            np.asarray(rows[start:stop], dtype=np.float64),
            None if times is None else np.asarray(times.reshape(-1)[start:stop], np.float64),
            None if labels is None else labels[owner],
            owner,
            rate,
        )


def _channels(path: Path, schema: Any, channels: int) -> list[str]:
    """The columns of numbers that are no time, label or series."""
    import pyarrow as pa

    def is_number(kind: Any) -> bool:
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or kind == pa.null())

    names = [
        str(field.name)
        for field in schema
        if field.name not in (TIME, LABEL, SERIES) and is_number(field.type)
    ]
    if len(names) != channels:
        raise _other_width(path, len(names), channels, f" ({', '.join(names)})" if names else "")
    return names


def _other_width(path: Path, found: int, channels: int, which: str = "") -> DataError:
    what = f"{path} has {found} channels{which}, the recipe expects {channels}"
    return DataError(what, "leave other columns out, or make them text; use a fitting recipe")


def _piece(path: Path, table: Any, names: list[str], rate: float | None) -> Piece:
    columns = [_numbers(table.column(name)) for name in names]
    has = table.schema.names
    return Piece(
        path.name,
        np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0)),
        _seconds(path, table.column(TIME)) if TIME in has else None,
        _whole(path, LABEL, table.column(LABEL)) if LABEL in has else None,
        _whole(path, SERIES, table.column(SERIES)) if SERIES in has else None,
        rate,
    )


def _numbers(column: Any) -> Floats:
    """A column as float64, NaN where a value is missing."""
    import pyarrow as pa

    array: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return array


def _seconds(path: Path, column: Any) -> Floats:
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        try:
            return _numbers(column)
        except pa.ArrowException:
            what = f"{path}: the column 'time' is {column.type}"
            raise DataError(what, "make it seconds, or a timestamp") from None
    nanoseconds = column.cast(pa.timestamp("ns")).cast(pa.int64())
    return np.asarray(nanoseconds.to_numpy(zero_copy_only=False), dtype=np.float64) / 1e9


def _whole(path: Path, name: str, column: Any) -> npt.NDArray[Any]:
    """A column of labels or of series, none missing."""
    if column.null_count:
        raise DataError(f"{path} has rows without a {name}", "fill or drop them")
    array: npt.NDArray[Any] = np.asarray(column.to_numpy(zero_copy_only=False))
    return array


def _rate(path: Path, text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: the rate {text!r} is no number", "give it in Hz") from None


def _lengths(
    file: Path, values: npt.NDArray[Any], lengths: npt.NDArray[Any] | None
) -> npt.NDArray[np.int64]:
    """How many rows each series has (N,)."""
    if values.ndim == 3:
        return np.full(len(values), values.shape[1], dtype=np.int64)
    if lengths is None:
        return np.array([len(values)])
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.sum() != len(values):
        raise DataError(f"{file}: `lengths` do not add up to {len(values)} rows", "let them add up")
    return lengths.astype(np.int64)


def _npz_labels(
    file: Path, arrays: dict[str, npt.NDArray[Any]], series: int
) -> npt.NDArray[Any] | None:
    """The label of each series (N,), named where the file has names."""
    labels = arrays.get("labels")
    if labels is None:
        return None
    names = arrays.get("class_names")
    fits = names is None or (labels.min(initial=0) >= 0 and labels.max(initial=0) < len(names))
    if labels.shape != (series,) or labels.dtype.kind not in "iu" or not fits:
        raise DataError(
            f"{file}: `labels` are no {series} numbers of classes",
            "give one class a series, from 0",
        )
    return labels if names is None else names[labels].astype(object)

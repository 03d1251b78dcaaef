"""Row groups of Parquet and Arrow files: read one at a time, a few of them kept."""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.shared.errors import ConfigError, DataError

PARQUET = frozenset((".parquet", ".pq"))
ARROW = frozenset((".arrow", ".feather", ".ipc"))
SUFFIXES = PARQUET | ARROW
KEPT = 5  # a shuffling window of blocks, and one that straddles its edge
ROWS_OF_A_SPILL = 1000
SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])")


@dataclass(frozen=True)
class Group:
    """One row group: how many rows, how many bytes uncompressed, and how to read some columns."""

    rows: int
    bytes: int
    read: Callable[[list[str]], Any]  # columns → pyarrow Table


class RowGroups:
    """The row groups of several files of one schema, in order."""

    def __init__(self, schema: Any, groups: list[Group]) -> None:
        self.schema = schema
        self.sizes = [group.rows for group in groups]
        self._groups = groups
        self._kept: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def read(self, number: int, column: str) -> Any:
        """A column of one row group as an Arrow array; the last few are kept."""
        key = (number, column)
        if key not in self._kept:
            table = self._groups[number].read([column])
            self._kept[key] = _one_array(table.column(column))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def every(self, column: str) -> Iterator[Any]:
        """A small column of all row groups, one array each; none is kept."""
        for group in self._groups:
            yield _one_array(group.read([column]).column(column))

    def tables(self, columns: list[str]) -> Iterator[Any]:
        """Some columns of all row groups, one pyarrow Table each; none is kept."""
        for group in self._groups:
            yield group.read(columns)


def table_files(path: Path) -> list[Path]:
    """The Parquet and Arrow files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())


def one_split(path: Path) -> list[Path]:
    """The same; raises DataError where they are both training and test data by their names."""
    files = table_files(path)
    splits = sorted({found[1] for f in files if (found := SPLIT.match(f.name.lower()))})
    if len(splits) > 1:
        what = f"{path} holds the splits {', '.join(splits)}"
        raise DataError(what, "point at a file of one of them, or give each its own folder")
    return files


def open_row_groups(files: list[Path], memory: int) -> RowGroups:
    """Open files of one schema; raises DataError on a damaged one.

    Parquet files whose row groups are too large to keep a few of them in `memory` bytes are
    copied once, in pieces, to a temporary file without a name.
    """
    pa = pyarrow()
    schema: Any = None
    groups: list[Group] = []
    for file in files:
        try:
            found, more = (
                _open_parquet(file, memory) if file.suffix in PARQUET else _open_arrow(file)
            )
        except (pa.ArrowException, OSError) as error:
            kind = type(error).__name__
            raise DataError(f"{file} cannot be read ({kind})", "write the file again") from None
        if schema is not None and schema.names != found.names:
            raise DataError(
                f"{file} has other columns than {files[0].name}",
                "keep files of other columns in other folders",
            )
        schema = schema or found
        groups += [group for group in more if group.rows]
    return RowGroups(schema, groups)


def _open_parquet(file: Path, memory: int) -> tuple[Any, list[Group]]:
    import pyarrow.parquet as pq

    # Without pre-buffering and with a buffer, a column chunk is read in pieces.
    parquet = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    meta = parquet.metadata
    sizes = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
    if max(sizes, default=0) * KEPT > memory:
        return _spilled(parquet, memory)

    def reader(number: int) -> Callable[[list[str]], Any]:
        return lambda columns: parquet.read_row_group(number, columns, use_threads=False)

    rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    return parquet.schema_arrow, [Group(rows[i], sizes[i], reader(i)) for i in range(len(rows))]


def _spilled(parquet: Any, memory: int) -> tuple[Any, list[Group]]:
    """The row groups cut smaller in an unnamed file: nothing private outlives the process."""
    import pyarrow as pa

    per_row = max(
        1,
        sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
        // max(1, parquet.metadata.num_rows),
    )
    rows = max(1, min(ROWS_OF_A_SPILL, memory // KEPT // per_row))
    spill = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its reader
    with pa.ipc.new_file(pa.PythonFile(spill, "w"), parquet.schema_arrow) as writer:
        for batch in parquet.iter_batches(rows, use_threads=False):
            writer.write_batch(batch)
    return _file_groups(pa.ipc.open_file(pa.PythonFile(spill, "r")))


def _open_arrow(file: Path) -> tuple[Any, list[Group]]:
    """An Arrow IPC file, or the stream that Hugging Face datasets write, mapped into memory."""
    import pyarrow as pa

    mapped = pa.memory_map(str(file))
    try:
        return _file_groups(pa.ipc.open_file(mapped))
    except pa.ArrowInvalid:
        mapped.seek(0)
        stream = pa.ipc.open_stream(mapped)
        return stream.schema, [_batch_group(batch) for batch in stream]


def _file_groups(reader: Any) -> tuple[Any, list[Group]]:
    import pyarrow as pa

    def group(number: int) -> Group:
        batch = reader.get_batch(number)

        def read(columns: list[str]) -> Any:
            return pa.Table.from_batches([reader.get_batch(number)]).select(columns)

        return Group(batch.num_rows, batch.nbytes, read)

    return reader.schema, [group(i) for i in range(reader.num_record_batches)]


def _batch_group(batch: Any) -> Group:
    import pyarrow as pa

    return Group(
        batch.num_rows, batch.nbytes, lambda columns: pa.Table.from_batches([batch]).select(columns)
    )


def _one_array(column: Any) -> Any:
    """A chunked column as one array."""
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise ConfigError(
            "CSV, Parquet and Arrow files need pyarrow, which is not installed",
            "pip install 'gobelin[parquet]'",
        ) from None
    return pyarrow

"""Parquet and Arrow files with a column of images, streamed by row group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.decode import UNREADABLE, Image, try_decode_many
from gobelin.shared.data.encoded import EncodedSource, open_encoded
from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.data.row_groups import (
    RowGroups,
    one_split,
    open_row_groups,
    pyarrow,
    table_files,
)
from gobelin.shared.errors import DataError

IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label")
LAYOUT = 'a binary column, a {"bytes", "path"} struct or a fixed-size list of uint8'

Indices = npt.NDArray[np.int64]


def finds(path: Path) -> bool:
    """Whether `path` is a Parquet or Arrow file, or a folder with some."""
    return bool(table_files(path))


def open_parquet(
    path: Path, form: ImageFormat, memory: int, on_bad: OnBad
) -> MemorySource | EncodedSource:
    """Open Parquet/Arrow files, in memory when all images decoded fit into `memory` bytes.

    The image column holds encoded images (binary, or the {"bytes", "path"} struct of Hugging Face
    datasets) or raw pixels (a fixed-size list of H * W * C uint8). Raises DataError.
    """
    pa = pyarrow()
    table = ImageTable(path, open_row_groups(one_split(path), memory), form)
    raw = pa.types.is_fixed_size_list(table.type)
    return open_encoded(RawImages(table, form) if raw else table, memory, BadInput(on_bad))


class ImageTable:
    """The rows of the image column, and their labels: a store of encoded images."""

    fault = UNREADABLE

    def __init__(self, path: Path, groups: RowGroups, form: ImageFormat) -> None:
        self.where, self._groups = path, groups
        self._form, self.shape = form, form.shape
        self._column = _image_column(path, groups.schema)
        self._starts = np.cumsum([0, *groups.sizes])
        if not self._starts[-1]:
            raise DataError(f"{path} holds no rows", "point at a file with images")
        self.type = groups.schema.field(self._column).type
        self.block: int | None = max(groups.sizes)
        self.labels = _labels(path, groups)
        self.class_names = _class_names(groups.schema)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def name(self, index: int) -> str:
        """File or folder, and row."""
        return f"{self.where.name}, row {index}"

    def decode(self, indices: Indices) -> Sequence[Image | None]:
        """The images at `indices`, each uint8 (C, H, W) or None."""
        encoded: list[bytes] = [b""] * len(indices)  # a missing one is empty, hence unreadable
        for rows, column in self.pieces(indices):
            values = column.field("bytes") if _is_struct(column.type) else column
            for row, value in zip(rows, values.to_pylist(), strict=True):
                encoded[row] = value or b""
        return try_decode_many(encoded, self._form)

    def pieces(self, indices: Indices) -> Sequence[tuple[Indices, Any]]:
        """(positions in `indices`, their rows as one Arrow array), one pair a row group.

        Row groups come in the order of the batch, so that those of a past window go first.
        """
        import pyarrow as pa

        owner = np.searchsorted(self._starts, indices, side="right") - 1
        pieces = []
        for group in dict.fromkeys(owner.tolist()):
            rows = np.flatnonzero(owner == group)
            offsets = pa.array(indices[rows] - self._starts[group])
            pieces.append((rows, self._groups.read(group, self._column).take(offsets)))
        return pieces


class RawImages:
    """Images stored as raw pixels in the rows of a table: a store that has little to decode."""

    fault = "not a stored image"

    def __init__(self, table: ImageTable, form: ImageFormat) -> None:
        self._table, self._form, self.shape, self.where = table, form, form.shape, table.where
        self.labels, self.class_names, self.block = table.labels, table.class_names, table.block
        self.name = table.name
        if table.type.list_size != form.bytes:
            found = table.type.list_size
            raise DataError(
                f"{table.where} holds images of {found} bytes, the recipe expects {form}",
                "use a recipe of that image_size and channels",
            )

    def __len__(self) -> int:
        return len(self._table)

    def decode(self, indices: Indices) -> Sequence[Image | None]:
        """The images at `indices`, each uint8 (C, H, W) or None."""
        size, channels = self._form.image_size, self._form.channels
        images: list[Image | None] = [None] * len(indices)
        for rows, column in self._table.pieces(indices):
            known = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            pixels = column.drop_null().flatten().to_numpy(zero_copy_only=False)
            whole = pixels.reshape(-1, size, size, channels).transpose(0, 3, 1, 2)
            for place, image in zip(rows[known].tolist(), whole, strict=True):
                images[place] = image
        return images


def _image_column(path: Path, schema: Any) -> str:
    """The column that holds images: by its usual name, or the only one of a fitting type."""
    fitting = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in fitting]
    if named:
        return named[0]
    if len(fitting) == 1:
        return str(fitting[0])
    found = "none" if not fitting else f"{', '.join(fitting)}"
    columns = ", ".join(schema.names)
    raise DataError(
        f"{path} has no image column: of its columns ({columns}) {found} can be one",
        f"name it 'image' and make it {LAYOUT}",
    )


def _holds_images(type_: Any) -> bool:
    import pyarrow as pa

    if _is_struct(type_):
        names = [type_.field(i).name for i in range(type_.num_fields)]
        return "bytes" in names and _is_binary(type_.field("bytes").type)
    raw = pa.types.is_fixed_size_list(type_) and type_.value_type == pa.uint8()
    return raw or _is_binary(type_)


def _is_struct(type_: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(type_))


def _is_binary(type_: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _labels(path: Path, groups: RowGroups) -> Tensor | None:
    """The integer label column (N,), or None when there is none."""
    import pyarrow as pa

    names = [name for name in LABEL_COLUMNS if name in groups.schema.names]
    if not names or not pa.types.is_integer(groups.schema.field(names[0]).type):
        return None
    parts = []
    for column in groups.every(names[0]):
        if column.null_count:
            raise DataError(f"{path} has rows without a label", "fill or drop them")
        parts.append(column.to_numpy(zero_copy_only=False).astype(np.int64))
    return torch.from_numpy(np.concatenate(parts))


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """Class names as Hugging Face datasets record them, or None."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        columns = [features[name] for name in LABEL_COLUMNS if name in features]
        return tuple(str(name) for name in columns[0]["names"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None

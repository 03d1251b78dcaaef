"""A source: where a member's private samples are read from, whatever they are stored as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gobelin.shared.data import idx, image_folder, parquet
from gobelin.shared.data.decode import ImageFormat
from gobelin.shared.errors import DataError

Indices = npt.NDArray[np.int64]
MEMORY = 256 * 2**20  # bytes a source may keep of its images unless told otherwise


class Source(Protocol):
    """A fixed, ordered set of samples, all of one size."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (len,), or None where the images have no labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What label i is called, where the source knows it."""

    @property
    def block(self) -> int | None:
        """Reading is cheap within blocks of this many consecutive images; None: in any order."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> Tensor:
        """The images at `indices` (B,): uint8 (B, C, H, W)."""


@dataclass(frozen=True)
class Reader:
    """One way to store images: how to know it, and how to open it."""

    finds: Callable[[Path], bool]
    opens: Callable[[Path, ImageFormat, int, bool], Source]  # path, format, memory, skip bad


READERS: dict[str, Reader] = {
    "Parquet or Arrow files": Reader(parquet.finds, parquet.open_parquet),
    "IDX files": Reader(idx.finds, idx.open_idx),
    "an image folder": Reader(image_folder.finds, image_folder.open_image_folder),
}


def open_source(
    path: Path,
    *,
    image_size: int,
    channels: int,
    memory: int = MEMORY,
    on_bad: Literal["refuse", "skip"] = "refuse",
) -> Source:
    """Open what lies at `path`: IDX files, Parquet/Arrow files or a folder of images.

    Encoded images are converted to `image_size` and `channels`; raw ones of another shape are
    refused. A source keeps at most about `memory` bytes of images. Raises DataError.
    """
    form = ImageFormat(image_size, channels)
    return READERS[kind_of(path)].opens(path, form, memory, on_bad == "skip")


def kind_of(path: Path) -> str:
    """The one reader that knows what lies at `path`, by name; raises DataError."""
    matches = [name for name, reader in READERS.items() if reader.finds(path)]
    if not matches:
        raise DataError(*_why_nothing(path))
    if len(matches) > 1:
        raise DataError(f"{path} holds {' and '.join(matches)}", "point at one of them")
    return matches[0]


def _why_nothing(path: Path) -> tuple[str, str]:
    """What is wrong with a path no reader knows, and the remedy."""
    kinds = "IDX files, Parquet/Arrow files, or images"
    if not path.exists():
        return f"{path} does not exist", f"point at a file or folder with {kinds}"
    if path.is_dir() and not any(path.iterdir()):
        return f"{path} is an empty folder", f"put {kinds} in it"
    return f"{path} holds no images Gobelin can read", f"it reads {kinds}"

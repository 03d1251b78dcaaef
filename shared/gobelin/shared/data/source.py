"""A source: where a member's private samples are read from, whatever they are stored as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import TypeVar

from gobelin.shared.data import (
    episodes,
    idx,
    image_folder,
    npz,
    parquet,
    series,
    text,
    video,
    webdataset,
)
from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import (
    Format,
    ImageFormat,
    SeriesFormat,
    TextFormat,
    TrajectoryFormat,
    VideoFormat,
)
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import DataError

Indices = npt.NDArray[np.int64]
MEMORY = 256 * 2**20  # bytes a source may keep of its samples unless told otherwise

# What a batch is: a tensor for every kind of data but trajectories.
Samples_co = TypeVar("Samples_co", bound=Tensor | Trajectories, covariant=True, default=Tensor)


class Source(Protocol[Samples_co]):
    """A fixed, ordered set of samples of one format; in the same order whenever it is opened."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (len,), or None where the samples have no labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What label i is called, where the source knows it."""

    @property
    def block(self) -> int | None:
        """Reading is cheap within blocks of this many consecutive samples; None: in any order."""

    @property
    def skipped(self) -> BadInput:
        """The bad input met so far."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> Samples_co:
        """The samples at `indices` (B,).

        Images are uint8 (B, C, H, W), clips uint8 (B, T, C, H, W), series float32 (B, T, C) with
        NaN for missing values, text uint8 (B, L) of UTF-8 with zeros at the end; see Trajectories.
        """


@dataclass(frozen=True)
class Reader:
    """One way to store samples: how to know it, and how to open it."""

    finds: Callable[[Path], bool]
    opens: Callable[[Path, Any, int, OnBad], Source[Any]]  # path, format, memory, on_bad


@dataclass(frozen=True)
class Kind:
    """One kind of data: what an operator calls it, and the ways to store it."""

    samples: str
    readers: dict[str, Reader]


KINDS: dict[type[Format], Kind] = {
    ImageFormat: Kind(
        "images",
        {
            "Parquet or Arrow files": Reader(parquet.finds, parquet.open_parquet),
            "IDX files": Reader(idx.finds, idx.open_idx),
            "an image folder": Reader(image_folder.finds, image_folder.open_image_folder),
            "WebDataset tar files": Reader(webdataset.finds, webdataset.open_webdataset),
        },
    ),
    SeriesFormat: Kind(
        "series",
        {
            "Parquet or Arrow files": Reader(parquet.finds, series.open_series_table),
            "CSV files": Reader(series.finds_csv, series.open_csv),
            ".npz files": Reader(npz.finds_npz, series.open_series_npz),
        },
    ),
    TrajectoryFormat: Kind(
        "episodes",
        {
            ".npz files": Reader(npz.finds_npz, episodes.open_npz_episodes),
            "HDF5 files": Reader(episodes.finds_hdf5, episodes.open_hdf5_episodes),
        },
    ),
    VideoFormat: Kind(
        "videos",
        {
            "video files": Reader(video.finds_files, video.open_video_files),
            "folders of frames": Reader(video.finds_frame_folders, video.open_frame_folders),
        },
    ),
    TextFormat: Kind(
        "text",
        {
            "Parquet or Arrow files": Reader(parquet.finds, text.open_text_table),
            "JSON lines": Reader(text.finds_json_lines, text.open_json_lines),
            ".txt files": Reader(text.finds_txt, text.open_txt),
        },
    ),
}


@overload
def open_source(
    path: Path,
    form: ImageFormat | VideoFormat | SeriesFormat | TextFormat,
    *,
    memory: int = MEMORY,
    on_bad: OnBad = "refuse",
) -> Source: ...


@overload
def open_source(
    path: Path, form: TrajectoryFormat, *, memory: int = MEMORY, on_bad: OnBad = "refuse"
) -> Source[Trajectories]: ...


@overload
def open_source(
    path: Path, form: Format, *, memory: int = MEMORY, on_bad: OnBad = "refuse"
) -> Source[Tensor | Trajectories]: ...


def open_source(
    path: Path, form: Format, *, memory: int = MEMORY, on_bad: OnBad = "refuse"
) -> Source[Any]:
    """Open the samples that lie at `path`, as `form` says.

    A source keeps at most about `memory` bytes of them. Bad input is refused, or skipped, counted
    and logged. Raises DataError, and ConfigError where a library is missing.
    """
    kind = KINDS[type(form)]
    names = _matches(path, kind)
    if not names:
        raise DataError(*_why_nothing(path, [kind]))
    if len(names) > 1:
        raise DataError(f"{path} holds {' and '.join(names)}", "point at one of them")
    return kind.readers[names[0]].opens(path, form, memory, on_bad)


def kind_of(path: Path) -> str:
    """How the samples at `path` are stored, before it is known what a recipe wants of them.

    Raises DataError where there are none, or several ways for every kind of data.
    """
    found = [names for kind in KINDS.values() if (names := _matches(path, kind))]
    if not found:
        raise DataError(*_why_nothing(path, list(KINDS.values())))
    clear = [names[0] for names in found if len(names) == 1]
    if not clear:
        raise DataError(f"{path} holds {' and '.join(found[0])}", "point at one of them")
    return " or ".join(dict.fromkeys(clear))


def _matches(path: Path, kind: Kind) -> list[str]:
    return [name for name, reader in kind.readers.items() if reader.finds(path)]


def _why_nothing(path: Path, kinds: list[Kind]) -> tuple[str, str]:
    """What is wrong with a path no reader knows, and the remedy."""
    ways = ", ".join(dict.fromkeys(name for kind in kinds for name in kind.readers))
    what = " or ".join(kind.samples for kind in kinds)
    if not path.exists():
        return f"{path} does not exist", f"point at {what}: {ways}"
    if path.is_dir() and not any(path.iterdir()):
        return f"{path} is an empty folder", f"put {what} in it: {ways}"
    return f"{path} holds no {what} Gobelin can read", f"it reads {ways}"

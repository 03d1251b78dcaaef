"""WebDataset shards: tar files whose neighbouring members of one basename are one sample.

The members of a sample are told apart by what follows the first dot of the basename
(github.com/webdataset/webdataset, "The WebDataset Format"). Shards are indexed, never extracted.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.decode import UNREADABLE, Image, try_decode_many
from gobelin.shared.data.encoded import EncodedSource, open_encoded
from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.data.image_folder import SUFFIXES
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.errors import DataError

LABEL = ".cls"  # an integer as text
UNLABELLED = -(2**63)
LONGEST_LABEL = 32  # bytes

Indices = npt.NDArray[np.int64]


def finds(path: Path) -> bool:
    """Whether `path` is a tar file, or a folder with some."""
    return bool(_shards(path))


def open_webdataset(
    path: Path, form: ImageFormat, memory: int, on_bad: OnBad
) -> MemorySource | EncodedSource:
    """Open the images of one shard or a folder of them, in the order of names; raises DataError.

    `.cls` members are labels. A shard that ends too early is refused, or gives what is whole.
    """
    skipped = BadInput(on_bad)
    return open_encoded(TarShards(path, form, skipped), memory, skipped)


@dataclass
class Index:
    """Where each image lies; as arrays, for shards hold millions."""

    shards: array[int] = field(default_factory=lambda: array("l"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))


class TarShards:
    """The images of tar files: a store of encoded images."""

    fault = UNREADABLE
    class_names = None

    def __init__(self, path: Path, form: ImageFormat, skipped: BadInput) -> None:
        self.where, self._form, self.shape = path, form, form.shape
        self._files = _shards(path)
        index = Index()
        for number, file in enumerate(self._files):
            _index_shard(file, number, index, skipped)
        self._shards, self._offsets, self._sizes, labels = (
            np.array(column, dtype=np.int64)
            for column in (index.shards, index.offsets, index.sizes, index.labels)
        )
        self.labels: Tensor | None = None
        if (labels != UNLABELLED).any():
            labels = self._without_unlabelled(labels, skipped)
            self.labels = torch.from_numpy(labels)
        if not len(self):
            raise DataError(f"{path} holds no images", "point at shards with images")
        self.block: int | None = int(np.bincount(self._shards).max())

    def __len__(self) -> int:
        return len(self._offsets)

    def decode(self, indices: Indices) -> Sequence[Image | None]:
        """The images at `indices`, each uint8 (C, H, W) or None."""
        encoded: list[bytes] = [b""] * len(indices)
        for shard in np.unique(self._shards[indices]):
            rows = np.flatnonzero(self._shards[indices] == shard)
            with self._files[shard].open("rb") as file:
                for row in rows[np.argsort(self._offsets[indices[rows]])]:
                    file.seek(self._offsets[indices[row]])
                    encoded[row] = file.read(self._sizes[indices[row]])
        return try_decode_many(encoded, self._form)

    def name(self, index: int) -> str:
        """Shard, and member as its header says."""
        file = self._files[self._shards[index]]
        with file.open("rb") as stream:
            stream.seek(self._offsets[index] - tarfile.BLOCKSIZE)
            header = tarfile.TarInfo.frombuf(
                stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape"
            )
        return f"{file.name}, {header.name}"

    def _without_unlabelled(self, labels: Indices, skipped: BadInput) -> Indices:
        """Labels of the labelled images; the others are bad input where some have labels."""
        good = labels != UNLABELLED
        for index in np.flatnonzero(~good).tolist():
            skipped.meet(self.name(index), "an image without a label")
        columns = (self._shards, self._offsets, self._sizes)
        self._shards, self._offsets, self._sizes = (column[good] for column in columns)
        kept: Indices = labels[good]
        return kept


def _index_shard(file: Path, number: int, index: Index, skipped: BadInput) -> None:
    """Add the images of one shard to the index."""
    image: tarfile.TarInfo | None = None
    label, current = UNLABELLED, ""

    def close() -> None:
        if image is not None:
            index.shards.append(number)
            index.offsets.append(image.offset_data)
            index.sizes.append(image.size)
            index.labels.append(label)
        elif current:
            skipped.meet(f"{file.name}, {current}", "a sample without an image")

    try:
        with tarfile.open(file, "r:") as tar:
            for member in _members(tar):
                key, ending = _split(member.name)
                if key != current:
                    close()
                    image, label, current = None, UNLABELLED, key
                if ending in SUFFIXES and image is None:
                    image = member
                elif ending == LABEL:
                    label = _label(tar, member)
            close()
    except (tarfile.TarError, OSError) as error:
        if not index.shards or index.shards[-1] != number:
            what = f"{file} is no tar file that can be read ({type(error).__name__})"
            raise DataError(what, "write it again; a compressed one must be unpacked") from None
        skipped.meet(file.name, "a truncated shard")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular files, none of which the tar file goes on remembering."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
            yield member


def _split(name: str) -> tuple[str, str]:
    """A member's name as (key, ending): "a/b.seg.png" → ("a/b", ".seg.png")."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{ending}".lower()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    stream = tar.extractfile(member)
    text = b"" if stream is None else stream.read(LONGEST_LABEL)
    try:
        return int(text)
    except ValueError:
        return UNLABELLED


def _shards(path: Path) -> list[Path]:
    """The tar files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix == ".tar" and p.is_file())

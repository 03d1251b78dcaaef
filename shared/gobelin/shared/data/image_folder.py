"""A folder of images; sub-folders, where there are some, are the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.decode import UNREADABLE, Image, try_decode_many
from gobelin.shared.data.encoded import EncodedSource, open_encoded
from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.data.memory import MemorySource

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


def finds(path: Path) -> bool:
    """Whether `path` is a folder that holds at least one image, at any depth."""
    return path.is_dir() and any(is_image(p) for p in path.rglob("*"))


def open_image_folder(
    path: Path, form: ImageFormat, memory: int, on_bad: OnBad
) -> MemorySource | EncodedSource:
    """Open a folder of images, in the order of their relative names; raises DataError."""
    return open_encoded(ImageFolder(path, form), memory, BadInput(on_bad))


class ImageFolder:
    """The image files under a folder, as a store of encoded images."""

    block: int | None = None

    fault = UNREADABLE

    def __init__(self, root: Path, form: ImageFormat) -> None:
        self.where, self._form, self.shape = root, form, form.shape
        self._files = sorted(p for p in root.rglob("*") if is_image(p))
        self.labels, self.class_names = classes_of(root, self._files)

    def __len__(self) -> int:
        return len(self._files)

    def decode(self, indices: npt.NDArray[np.int64]) -> Sequence[Image | None]:
        """The images at `indices`, each uint8 (C, H, W) or None."""
        return try_decode_many([self._files[i] for i in indices], self._form)

    def name(self, index: int) -> str:
        """The file's name relative to the folder."""
        return self._files[index].relative_to(self.where).as_posix()


def classes_of(root: Path, files: list[Path]) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels (N,) and class names from the first folder under `root`; None without sub-folders."""
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) == 1 for part in parts):
        return None, None
    names = tuple(sorted({part[0] for part in parts}))
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[part[0]] for part in parts]), names


def is_image(path: Path) -> bool:
    """Whether a file looks like an image, by its name."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()

"""IDX files, the format of MNIST and its kin: a big-endian header, then raw bytes; .gz or not."""

from __future__ import annotations

import gzip
import math
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.data.memory import MemorySource
from gobelin.shared.errors import DataError

UNSIGNED_BYTE = 0x08
REMEDY = "fetch or export the file again"


def finds(path: Path) -> bool:
    """Whether `path` is an IDX image file, or a folder with one."""
    return bool(_image_files(path))


def open_idx(path: Path, form: ImageFormat, memory: int, on_bad: OnBad) -> MemorySource:
    """Open IDX images with the labels beside them: `...images-idx3...` and `...labels-idx1...`.

    An uncompressed file is mapped, not read; a .gz is decompressed into memory if it fits into
    `memory` bytes, else into an unnamed temporary file. Raw pixels cannot be partly unreadable,
    so `on_bad` changes nothing. Raises DataError.
    """
    files = _image_files(path)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path} holds several image files: {names}", "point at one of them")
    file = files[0]
    images = read_idx(file, memory)
    if len(images) == 0:
        raise DataError(f"{file} holds no images", "point at a file with images")
    if images.ndim == 3:
        images = images[:, None]  # (N, H, W) → (N, 1, H, W)
    elif images.ndim == 4:
        images = images.transpose(0, 3, 1, 2)  # (N, H, W, C) → (N, C, H, W), still a view
    else:
        raise DataError(
            f"{file} has {images.ndim} dimensions, images have 3 or 4", "point at a file of images"
        )
    if images.shape[1:] != form.shape:
        channels, height, width = images.shape[1:]
        raise DataError(
            f"{file} holds {height} x {width} x {channels} images, the recipe expects {form}",
            "use a recipe of that image_size and channels, or an image folder, which is resized",
        )
    return MemorySource(images, _labels_beside(file, len(images)), skipped=BadInput(on_bad))


def read_idx(file: Path, memory: int) -> npt.NDArray[np.uint8]:
    """The uint8 array of an IDX file, mapped where possible; raises DataError when truncated."""
    try:
        with _opened(file) as stream:
            shape, header = _read_header(file, stream)
            size = math.prod(shape)
            if file.suffix != ".gz":
                return _mapped(file, file.stat().st_size, shape, header)
            if size <= memory:
                data = stream.read(size + 1)
                _require_size(file, len(data), size)
                return np.frombuffer(data, dtype=np.uint8).reshape(shape)
            return _spilled(file, stream, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {_reason(error)}", REMEDY) from None


def _read_header(file: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], int]:
    """The shape of the array, and the bytes the header takes."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
        raise DataError(f"{file} is no IDX file: it begins with 0x{magic.hex()}", REMEDY)
    if magic[2] != UNSIGNED_BYTE:
        raise DataError(
            f"{file} has IDX type 0x{magic[2]:02x}, Gobelin reads unsigned bytes",
            "convert it to unsigned bytes",
        )
    dims = stream.read(4 * magic[3])
    if len(dims) < 4 * magic[3]:
        raise DataError(f"{file} ends within its header", REMEDY)
    return struct.unpack(f">{magic[3]}I", dims), 4 + len(dims)


def _mapped(file: Path, length: int, shape: tuple[int, ...], header: int) -> npt.NDArray[np.uint8]:
    """An uncompressed file's array, whose pages are read when they are used."""
    _require_size(file, length - header, math.prod(shape))
    if not math.prod(shape):
        return np.empty(shape, dtype=np.uint8)
    return np.memmap(file, dtype=np.uint8, mode="r", offset=header, shape=shape)


def _spilled(file: Path, stream: IO[bytes], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A large .gz decompressed into a file without a name: nothing private outlives the process."""
    with tempfile.TemporaryFile() as spill:
        shutil.copyfileobj(stream, spill, 2**20)
        _require_size(file, spill.tell(), math.prod(shape))
        return np.memmap(spill, dtype=np.uint8, mode="r", shape=shape)


def _require_size(file: Path, found: int, expected: int) -> None:
    if found < expected:
        raise DataError(f"{file} is truncated: {found:,} of {expected:,} bytes", REMEDY)
    if found > expected:
        raise DataError(f"{file} is longer than the {expected:,} bytes its header says", REMEDY)


def _labels_beside(images: Path, count: int) -> Tensor | None:
    """The labels that belong to an image file, or None when there is no such file."""
    bare = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    bare = bare.replace("idx4", "idx1")
    for name in (bare, f"{bare}.gz"):
        file = images.with_name(name)
        if name.removesuffix(".gz") != images.name.removesuffix(".gz") and file.is_file():
            labels = read_idx(file, memory=2**31)
            if labels.shape != (count,):
                found = " x ".join(map(str, labels.shape))
                raise DataError(f"{file} holds {found} labels for {count} images", REMEDY)
            return torch.from_numpy(labels.astype(np.int64))
    return None


def _image_files(path: Path) -> list[Path]:
    """The IDX image files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if _is_image_name(path.name) else []
    if not path.is_dir():
        return []
    files = sorted(p for p in path.iterdir() if p.is_file() and _is_image_name(p.name))
    plain = {p.name for p in files}
    return [p for p in files if p.name.removesuffix(".gz") == p.name or p.stem not in plain]


def _is_image_name(name: str) -> bool:
    return any(mark in name for mark in ("idx3-ubyte", "idx4-ubyte", "idx3.ubyte"))


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed data end too early"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the compressed data are damaged"

"""Arrays of .npz files: mapped where they are stored plain, unpacked once where compressed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gobelin.shared.data.spill import Spill
from gobelin.shared.errors import DataError

PIECE = 2**20  # bytes read at a time
LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of what follows it (APPNOTE 4.3.7)
REMEDY = "write it again with numpy.savez"


def read_npz(file: Path, memory: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a .npz file by name; raises DataError when it is damaged.

    Every array is read through once, so that its checksum is known to hold. Pickled objects are
    never loaded.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return {
                info.filename.removesuffix(".npy"): _array(file, archive, info, memory)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        what = f"{file} is no .npz file that can be read ({type(error).__name__})"
        raise DataError(what, REMEDY) from None


def finds_npz(path: Path) -> bool:
    """Whether `path` is a .npz file, or a folder with some."""
    return bool(npz_files(path))


def npz_files(path: Path) -> list[Path]:
    """The .npz files at `path`: it, or those in it."""
    if path.is_file():
        return [path] if path.suffix == ".npz" else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix == ".npz" and p.is_file())


def _array(
    file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, memory: int
) -> npt.NDArray[Any]:
    with archive.open(info) as stream:
        shape, fortran, dtype = _read_header(stream)
        if dtype.hasobject:
            what = f"{file}: the array {info.filename} holds Python objects"
            raise DataError(what, "store numbers or text; Gobelin loads no pickles")
        begin = stream.tell()
        if info.compress_type == zipfile.ZIP_STORED:
            while stream.read(PIECE):  # zipfile compares the checksum at the end
                pass
            array = _mapped(file, info, begin, dtype, shape, fortran)
        else:
            spill = Spill(np.uint8, (), memory)
            while piece := stream.read(PIECE):
                spill.append(np.frombuffer(piece, dtype=np.uint8))
            array = spill.finish().view(dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"npy version {version}")
    return read(stream)


def _mapped(
    file: Path,
    info: zipfile.ZipInfo,
    begin: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    fortran: bool,
) -> npt.NDArray[Any]:
    """An array that lies in the file as it is: `begin` bytes after its member's local header."""
    if not np.prod(shape, dtype=np.int64):
        return np.empty(shape, dtype=dtype)
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
    offset = info.header_offset + LOCAL_HEADER.size + name + extra + begin
    order = "F" if fortran else "C"
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload,no-any-return]

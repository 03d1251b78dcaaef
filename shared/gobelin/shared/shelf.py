"""A shelf: signed releases as they lie in a folder, announced by names, sizes and digests.

What is announced is believed of nobody: it is how much whoever fetches a release has to expect.
Needs no model, so that our service stays small.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gobelin.protocols.ledger import ReleaseStatement
from gobelin.shared.errors import ReleaseError, StateError
from gobelin.shared.files import MANIFEST, file_digest, read_json

STATEMENT = "release.json"  # what makes a folder a signed release
SIGNATURE = "model.sig"
CHUNK = 1 << 18  # bytes read at a time
MAX_FILES = 64  # of a release
MAX_SMALL = 64 << 20  # bytes of a file that holds no tensors
MAX_GB = 16.0  # of 10⁹ bytes, of a release, for who does not say otherwise
TENSORS = ".safetensors"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
END = 1 << 36  # of time, for announcements: Unix seconds
DIGEST = re.compile(r"[0-9a-f]{64}")
REMEDY = "fetch it again, or ask the aggregator's operator for it"


@dataclass(frozen=True)
class AnnouncedFile:
    """One file of a release."""

    name: str
    size: int  # bytes
    digest: str  # SHA-256, hex


@dataclass(frozen=True)
class Announced:
    """A release as somebody says it is."""

    name: str
    federation: str
    round: int
    vector_digest: str
    issued: int  # Unix seconds, as is the next
    expires: int
    files: tuple[AnnouncedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def file(self, name: str) -> AnnouncedFile:
        """One of the files; raises ReleaseError when there is none of that name."""
        for file in self.files:
            if file.name == name:
                return file
        raise ReleaseError(f"{self.name} has no {name}", REMEDY)

    def require_fit(self) -> None:
        """Raise ReleaseError unless names, digests, sizes and their number are of a release."""
        told = NAME.fullmatch(self.name) and NAME.fullmatch(self.federation)
        times = 0 <= self.issued < END and 0 <= self.expires < END
        if not (told and times and DIGEST.fullmatch(self.vector_digest)):
            raise ReleaseError("a release is announced that can be none", REMEDY)
        names = {file.name for file in self.files}
        if len(names) != len(self.files) or not 0 < len(names) <= MAX_FILES:
            raise ReleaseError(f"{self.name} has {len(self.files)} files", REMEDY)
        for file in self.files:
            if not (NAME.fullmatch(file.name) and DIGEST.fullmatch(file.digest)):
                raise ReleaseError(f"{self.name} has a file that is none of a release", REMEDY)
            if file.size < 0 or (file.size > MAX_SMALL and not file.name.endswith(TENSORS)):
                raise ReleaseError(f"{self.name}: {file.name} has {file.size:,} bytes", REMEDY)

    def facts(self) -> dict[str, Any]:
        """As plain data, without the files."""
        return {
            "release": self.name,
            "federation": self.federation,
            "round": self.round,
            "vector_digest": self.vector_digest,
            "issued": self.issued,
            "expires": self.expires,
            "bytes": self.size,
        }


class Shelf:
    """The signed releases in a folder of releases, or the one that the folder itself is."""

    def __init__(self, folder: Path) -> None:
        """An aggregator's home and an export are folders of releases, too."""
        within = folder / "releases"
        self._folder = within if within.is_dir() and not _is_release(folder) else folder

    def releases(self) -> list[Announced]:
        """All that are fit, newest first.

        Raises StateError where there is no folder, ReleaseError when it is one that is damaged.
        """
        if not self._folder.is_dir():
            raise StateError(f"{self._folder} is no folder", "name a release, or a folder of some")
        if _is_release(self._folder):
            return [_announced(self._folder, _stamp(self._folder))]
        found = []
        for folder in filter(_is_release, self._folder.iterdir()):
            # a damaged one hides no other, nor does one that is just being removed
            with contextlib.suppress(ReleaseError, FileNotFoundError):
                found.append(_announced(folder, _stamp(folder)))
        return sorted(found, key=lambda release: -release.round)

    def open(self, release: str, file: str) -> BinaryIO:
        """An announced file; raises ReleaseError when there is none of that name."""
        if not NAME.fullmatch(release) or not NAME.fullmatch(file):
            raise ReleaseError("no release has such a name", REMEDY)
        folder = self._folder if _is_release(self._folder) else self._folder / release
        path = folder / file
        if folder.name != release or not _is_release(folder) or not _is_plain(path):
            raise ReleaseError(f"there is no {release}/{file}", REMEDY)
        return path.open("rb")


def pieces(stream: BinaryIO, offset: int, size: int = CHUNK) -> Iterator[bytes]:
    """What a file holds from `offset` on, at most `size` bytes at a time."""
    stream.seek(offset)
    while data := stream.read(size):
        yield data


def _is_release(folder: Path) -> bool:
    return not folder.is_symlink() and _is_plain(folder / STATEMENT)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _stamp(folder: Path) -> int:
    return (folder / STATEMENT).stat().st_mtime_ns


@functools.lru_cache(maxsize=4096)  # a release is written once: what it is stays what it is
def _announced(folder: Path, stamp: int) -> Announced:
    """A release's announcement; the digests of tensors are those of its manifest."""
    try:
        told = read_json(folder / STATEMENT)["statement"]
        statement = ReleaseStatement.of_plain(told)
        known = {n: str(d) for n, d in read_json(folder / MANIFEST)["files"].items()}
        files = [
            AnnouncedFile(path.name, path.stat().st_size, known.get(path.name) or _digest(path))
            for path in sorted(folder.iterdir())
            if _require_plain(path)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, StateError, OSError):
        raise ReleaseError(f"{folder} is a damaged release", REMEDY) from None
    found = Announced(
        folder.name,
        statement.federation,
        statement.round,
        statement.vector_digest,
        statement.issued,
        statement.expires,
        tuple(files),
    )
    found.require_fit()
    return found


def _digest(path: Path) -> str:
    if path.stat().st_size > MAX_SMALL:
        raise ReleaseError(f"{path} is too large for a release's", REMEDY)
    return file_digest(path)


def _require_plain(path: Path) -> bool:
    if not _is_plain(path):
        raise ReleaseError(f"{path} is no file", REMEDY)
    return True

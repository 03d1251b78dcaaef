"""Files that survive a kill: written whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gobelin.shared.errors import StateError

LOCK = ".lock"
MANIFEST = "manifest.json"  # of a checkpoint, what says that it is whole
PRIVATE = 0o600
PUBLIC = 0o644
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # as tempfile completes the prefixes below


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it outlives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _begin(path: Path, make: Callable[[None, str, Path], str]) -> tuple[int, Path]:
    """Something unfinished beside `path`, held open and locked: `sweep` sees that its writer lives.

    Swept before it was locked, it has no name any more, and another is made.
    """
    while True:
        tmp = make(None, f".{path.name}.", path.parent)
        with suppress(FileNotFoundError):
            fd = os.open(tmp, os.O_RDONLY)
            with suppress(OSError):  # a disk that knows no locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd, Path(tmp)
            os.close(fd)


def _new_file(suffix: None, prefix: str, folder: Path) -> str:
    fd, name = tempfile.mkstemp(suffix, prefix, folder)
    os.close(fd)
    return name


@contextmanager
def file_atomic(path: Path, mode: int = PUBLIC, flush: bool = True) -> Iterator[Path]:
    """Write the yielded file; on a clean exit only it becomes `path`, flushed, folder and all.

    Without `flush` it outlives a kill of the process, and a power cut may leave anything of it:
    for what is known by its digest and can be had again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = _begin(path, _new_file)
    try:
        os.fchmod(fd, mode)
        yield tmp
        if flush:
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    if flush:
        sync_folder(path.parent)


def write_atomic(
    path: Path, data: bytes | memoryview, mode: int = PUBLIC, flush: bool = True
) -> None:
    """Write `data` to `path` by tmp + fsync + rename + fsync of the folder; see `file_atomic`."""
    with file_atomic(path, mode, flush) as tmp:
        tmp.write_bytes(data)


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the file that `source` is, or a copy where the disk knows no links.

    For files that are written once: a change of one would be a change of both.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(
    path: Path, value: Mapping[str, Any], mode: int = PUBLIC, flush: bool = True
) -> None:
    """Write `value` as indented JSON with sorted keys, atomically; see `file_atomic`."""
    write_atomic(path, json_bytes(value), mode, flush)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """The one way we write JSON to files."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by `write_json`; raises StateError when it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StateError(f"{path} does not exist", "create it with the matching `init`") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise StateError(f"{path} cannot be read: {reason}", "restore it from a backup") from None
    if not isinstance(value, dict):
        raise StateError(f"{path} is not a JSON object", "restore it from a backup")
    return value


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `path` (replacing an older one) on a clean exit only."""
    path = path.absolute()  # "." has no name of its own
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, tmp = _begin(path, tempfile.mkdtemp)
    try:
        tmp.chmod(0o755)
        yield tmp
        settle_folder(tmp, path)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    finally:
        os.close(fd)


def settle_folder(filled: Path, path: Path) -> None:
    """A filled folder becomes `path` on the same disk, flushed; an older one is replaced."""
    for file in (path for path in filled.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(filled)
    if path.exists():
        remove_folder(path)
    filled.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, which is there whole or not at all for whoever looks for its name."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)  # of what has another name in a moment
        tmp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        path.replace(tmp)
        sync_folder(path.parent)
        shutil.rmtree(tmp)
    finally:
        os.close(fd)


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is what a killed writer has left, by its name."""
    return bool(_UNFINISHED.fullmatch(path.name))


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left unfinished, and nothing of those that live.

    Whoever starts on a folder may call it: beside them other processes may be writing there.
    """
    for path in list(folder.rglob(".*")):
        if is_unfinished(path):
            _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # its writer is done, or its folder was swept
    try:
        if not _try_lock(fd):
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def open_to_others(files: Iterable[Path]) -> list[Path]:
    """Those of the files that others than their owner may read or write."""
    return [file for file in files if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077]


def numbered(folder: Path, before: str = "", after: str = "") -> list[int]:
    """Numbers in the names of a folder's entries, ascending; none where there is no folder.

    Names are `before`, digits, `after`; others are passed over. Nothing but the numbers is held,
    for of rounds there are many.
    """
    name = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(int(found[1]) for entry in entries if (found := name.fullmatch(entry.name)))
    return []


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder and below; those that go meanwhile are none."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


@contextmanager
def sole_owner(home: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder; raises StateError when another process still holds it then."""
    home.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + wait_s
    with (home / LOCK).open("a+") as lock:
        while not _try_lock(lock.fileno()):
            if time.monotonic() >= give_up:
                raise StateError(
                    f"another process is already running on {home}",
                    "stop it first, or give this one its own --home",
                )
            time.sleep(0.1)
        yield


def is_owned(home: Path) -> bool:
    """Whether a process holds the lock of a folder right now."""
    if not (home / LOCK).exists():
        return False
    with (home / LOCK).open("a+") as lock:
        return not _try_lock(lock.fileno())


@contextmanager
def change(path: Path) -> Iterator[None]:
    """Hold the right to read a file and write it anew; waits for the process that has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}{LOCK}").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_lock(path: Path) -> bool:
    """Whether a file is there to be locked, by its name, and holds nothing."""
    return path.name.startswith(".") and path.name.endswith(LOCK)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

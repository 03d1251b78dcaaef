"""Files that survive a kill: written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gobelin.shared.errors import MachineError, StateError
from gobelin.shared.locks import change, hold, is_at, try_lock

MANIFEST = "manifest.json"  # of a checkpoint, what says that it is whole
PRIVATE = 0o600
PUBLIC = 0o644
# That there is no such file, or none this user may read: any other failure to read it may pass.
_LASTING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_LASTING |= {errno.EACCES, errno.EPERM}
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # as tempfile completes the prefixes below


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it outlives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def file_atomic(path: Path, mode: int = PUBLIC, flush: bool = True) -> Iterator[Path]:
    """Write the yielded file; on a clean exit only it becomes `path`, flushed, folder and all.

    Without `flush` it outlives a kill of the process, and a power cut may leave anything of it:
    for what is known by its digest and can be had again.
    """
    tmp, fd = _begin(path, _new_file)
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
    """Read a JSON object written by `write_json`.

    Raises StateError when it is damaged or gone, MachineError when its disk fails for now.
    """
    value = find_json(path)
    if value is None:
        raise StateError(f"{path} does not exist", "create it with the matching `init`")
    return value


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise MachineError where a disk fails for now to read what lies there: it is not damaged."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in _LASTING:
            raise
        reason = error.strerror or type(error).__name__
        raise MachineError(f"{path} cannot be read: {reason}", "see to its disk") from None


def find_json(path: Path) -> dict[str, Any] | None:
    """The same of a file that need not be there, or may go at any time: None without one."""
    try:
        with readable(path):
            value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
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
def folder_atomic(path: Path, new: bool = False) -> Iterator[Path]:
    """Fill the yielded folder; it becomes `path` (replacing an older one) on a clean exit only.

    A `new` one replaces nothing: raises StateError where something has come there meanwhile.
    """
    path = path.absolute()  # "." has no name of its own
    tmp, fd = _begin(path, tempfile.mkdtemp)
    try:
        tmp.chmod(0o755)
        yield tmp
        settle_folder(tmp, path, new)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    finally:
        os.close(fd)


def settle_folder(filled: Path, path: Path, new: bool = False) -> None:
    """A filled folder becomes `path` on the same disk, flushed; an older one is replaced.

    A `new` one replaces an empty folder at most; raises StateError on any other.

    Where the system can exchange two names, there is one of the two under `path` at any time.
    """
    for file in (path for path in filled.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(filled)
    if new:
        try:
            filled.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise StateError(f"{path} is not empty", "choose an empty or new folder") from None
        sync_folder(path.parent)
        return
    if path.is_dir() and not path.is_symlink() and _exchange(filled, path):
        sync_folder(path.parent)
        with _held(filled):  # the older one now
            shutil.rmtree(filled)
        return
    if path.exists():
        remove_folder(path)
    filled.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, which is there whole or not at all for whoever looks for its name."""
    with _held(path):
        tmp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        path.replace(tmp)
        sync_folder(path.parent)
        shutil.rmtree(tmp)


def _begin(path: Path, make: Callable[..., str]) -> tuple[Path, int]:
    """Something new and unfinished beside `path`, locked, so that `sweep` sees its writer live."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        tmp = Path(make(dir=path.parent, prefix=f".{path.name}."))
        with suppress(FileNotFoundError), ExitStack() as closing:
            fd = os.open(tmp, os.O_RDONLY)
            closing.callback(os.close, fd)
            if hold(fd) and is_at(fd, tmp):  # else it was swept before it was locked
                closing.pop_all()
                return tmp, fd


def _new_file(**named: Any) -> str:
    fd, name = tempfile.mkstemp(**named)
    os.close(fd)
    return str(name)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep `sweep` from what is being removed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        hold(fd)
        yield
    finally:
        os.close(fd)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step by renameat2(2); False where system or disk know no such."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and not call(
        here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(exchange)
    )


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is what a killed writer has left, by its name."""
    return bool(_UNFINISHED.fullmatch(path.name))


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left unfinished, and nothing of those that live.

    Whoever starts on a folder may call it: beside them other processes may be writing there.
    """
    for path in list(below(folder)):
        if is_unfinished(path):
            _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # its writer is done, or its folder was swept
    try:
        if not try_lock(fd):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another may sweep within
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


def below(folder: Path) -> Iterator[Path]:
    """Files and folders below a folder that somebody may be writing to; links are not followed.

    What goes meanwhile is passed over, where `rglob` would end with FileNotFoundError.
    """
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder and below; those that go meanwhile are none."""
    total = 0
    for file in below(folder):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def write_once(path: Path, make: Callable[[], bytes]) -> None:
    """Write a private file unless it is there; of several processes all find what the first made.

    For keys and other secrets, of which another one would be another's.
    """
    if path.exists():
        return
    with change(path):
        if not path.exists():
            write_atomic(path, make(), PRIVATE)

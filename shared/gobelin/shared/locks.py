"""Turns among processes: advisory locks by flock(2), of which a killed process holds none."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from gobelin.shared.errors import InUseError

LOCK = ".lock"


@contextmanager
def sole_owner(home: Path, wait_s: float = 1.0) -> Iterator[None]:
    """Hold the lock of a folder; raises InUseError when another process still holds it then.

    Waits a moment by itself: for one that is just ending, or only looks (`is_owned`).
    """
    give_up = time.monotonic() + wait_s
    while (lock := _owned(home)) is None:
        if time.monotonic() >= give_up:
            raise InUseError(
                f"another process is already running on {home}",
                "stop it first, or give this one its own --home",
            )
        time.sleep(0.1)
    with lock:
        yield


def _owned(home: Path) -> IO[str] | None:
    """The locked lock of a folder, or None where another has it, or the folder has just gone."""
    home.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError), ExitStack() as closing:
        lock = closing.enter_context((home / LOCK).open("a+"))
        if try_lock(lock.fileno()) and is_at(lock.fileno(), home / LOCK):
            closing.pop_all()
            return lock
    return None


def is_owned(home: Path) -> bool:
    """Whether a process holds the lock of a folder right now; who else looks is none."""
    try:
        with (home / LOCK).open() as lock:
            return not try_lock(lock.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@contextmanager
def change(path: Path) -> Iterator[None]:
    """Hold the right to read a file, or a folder's, and write it anew; waits for who has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}{LOCK}").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_lock(path: Path) -> bool:
    """Whether a file is there to be locked, by its name, and holds nothing."""
    return path.name.startswith(".") and path.name.endswith(LOCK)


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether nobody else has it; a disk without locks is an OSError."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold(fd: int) -> bool:
    """The same of what must be written on a disk without locks, too."""
    try:
        return try_lock(fd)
    except OSError:
        return True


def is_at(fd: int, path: Path) -> bool:
    """Whether what was opened still goes by this name."""
    return os.path.samestat(os.fstat(fd), path.stat())

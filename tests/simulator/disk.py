"""A disk that can fail at any flush, rename or removal, and forget what was not flushed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from gobelin.shared import files

JOURNAL = "journal.jsonl"


class Killed(BaseException):
    """The process is gone: kill −9, or the power."""


class Disk:
    """Stands between the program and the files under `root` while it is `mounted`.

    `fuse` counts down at every flush, rename and removal; at 0 the process dies there. While the
    disk is `full`, nothing can be flushed. What was not flushed is lost in a `power_cut`.
    """

    def __init__(self, root: Path, chance: random.Random, faults: Counter[str]) -> None:
        self.root = root
        self.fuse = -1
        self.full = False
        self.strikes: Callable[[str], bool] = lambda fault: False
        self._chance = chance
        self._faults = faults
        self._flushed: dict[int, int] = {}  # inode → bytes that are safe
        self._renamed: list[tuple[Path, Path]] = []  # from, to; not safe yet
        self._dying = False

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Files go through this disk in here."""
        replace, unlink, rmtree = Path.replace, Path.unlink, shutil.rmtree
        exchange = files._exchange

        def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
            def remove(*arguments: Any, **named: Any) -> None:
                if not self._dying:  # a killed process cleans up nothing
                    self._point()
                    call(*arguments, **named)

            return remove

        def renaming(path: Path, target: Path) -> Path:
            self._point()
            if not target.exists():
                self._renamed.append((path, target))
            return replace(path, target)

        def exchanging(path: Path, target: Path) -> bool:
            self._point()
            self._renamed.append((path, target))
            return exchange(path, target)

        with (
            mock.patch.object(os, "fsync", self._fsync),
            mock.patch.object(Path, "replace", renaming),
            mock.patch.object(files, "_exchange", exchanging),
            mock.patch.object(Path, "unlink", guarded(unlink)),
            mock.patch.object(shutil, "rmtree", guarded(rmtree)),
        ):
            yield

    def _point(self) -> None:
        """A place to die."""
        self.fuse -= 1
        if self.fuse == 0:
            self.die()

    def die(self) -> None:
        """The process ends here."""
        self._dying = True
        raise Killed

    def _fsync(self, fd: int) -> None:
        self._point()
        if self.full:
            self._faults["disk full"] += 1
            raise OSError(errno.ENOSPC, "no space left on device")
        entry, path = os.fstat(fd), Path(f"/proc/self/fd/{fd}").readlink()
        if stat.S_ISDIR(entry.st_mode):
            self._renamed = [one for one in self._renamed if one[1].parent != path]
            return
        if path.name == JOURNAL and self.strikes("killed at the journal"):
            self.die()
        self._flushed[entry.st_ino] = entry.st_size

    def after_death(self) -> None:
        """What the next process finds; every other time the power was cut as well."""
        self._dying = False
        self.fuse = -1
        if self._chance.random() < 0.5:
            self._power_cut()
        self._renamed.clear()

    def _power_cut(self) -> None:
        self._faults["power cut"] += 1
        for source, target in reversed(self._renamed):
            if target.exists() and self._chance.random() < 0.5:
                if not (source.exists() and files._exchange(source, target)):
                    target.rename(source)
                self._faults["rename undone"] += 1
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self._tear(path)

    def _tear(self, path: Path) -> None:
        entry = path.stat()
        safe = min(entry.st_size, self._flushed.get(entry.st_ino, 0))
        if safe < entry.st_size:
            os.truncate(path, self._chance.randint(safe, entry.st_size))
            self._faults["torn file"] += 1

    def trust(self) -> None:
        """Whatever lies there now was flushed long ago."""
        for path in self.root.rglob("*"):
            if path.is_file():
                entry = path.stat()
                self._flushed[entry.st_ino] = entry.st_size

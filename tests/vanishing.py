"""What its owner removes while another process looks: found, and gone before it is opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def vanishing(what: Path) -> Iterator[None]:
    """A file or folder goes when somebody is about to list it, or to read a file of it."""
    scandir, read_bytes = os.scandir, Path.read_bytes

    def remove() -> None:
        if what.is_dir():
            shutil.rmtree(what)
        else:
            what.unlink(missing_ok=True)

    def listing(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path) == what and what.exists():
            remove()
        return scandir(path)

    def reading(path: Path) -> bytes:
        if path == what or what in path.parents:
            remove()
        return read_bytes(path)

    with (
        mock.patch.object(os, "scandir", listing),
        mock.patch.object(Path, "read_bytes", reading),
    ):
        yield
    assert not what.exists(), "nobody has looked"

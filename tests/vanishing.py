"""What its owner removes while another process looks: listed, and gone before it is opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def vanishing(folder: Path) -> Iterator[None]:
    """`folder` goes when somebody who has found it is about to list it."""
    scandir = os.scandir

    def listing(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path) == folder:
            shutil.rmtree(folder, ignore_errors=True)
        return scandir(path)

    with mock.patch.object(os, "scandir", listing):
        yield
    assert not folder.exists(), "nobody has looked into it"

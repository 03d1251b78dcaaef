"""A disk that fails to read what lies on it: for now, or because of what lies there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock


def failing_disk(of: Path, error: int) -> AbstractContextManager[object]:
    """Whatever is opened of a file, or of a folder's files, fails by an errno."""
    opened: Callable[..., Any] = Path.open

    def refuse(path: Path, *how: Any, **more: Any) -> Any:
        if path == of or of in path.parents:
            raise OSError(error, os.strerror(error))
        return opened(path, *how, **more)

    return mock.patch.object(Path, "open", refuse)

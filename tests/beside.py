"""Another process of the same home, at a moment of our choice: a thread, with locks of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

MOMENT_S = 0.3  # for it to do what it can, where it has to wait for us it does the rest later


class Beside:
    """Does something once, beside whoever calls `step`."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self._does = does
        self._thread: threading.Thread | None = None
        self.result: Any = None

    def step(self) -> None:
        """Begin, the first time, and give it a moment."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
            self._thread.join(MOMENT_S)

    def _run(self) -> None:
        self.result = self._does()

    def end(self) -> Any:
        """What came of it, once we are out of its way."""
        assert self._thread is not None, "it never began"
        self._thread.join(30)
        assert not self._thread.is_alive(), "it waits for ever"
        return self.result

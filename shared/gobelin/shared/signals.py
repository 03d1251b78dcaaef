"""Stopping on request: SIGTERM and Ctrl-C become one exception, so cleanup is ordinary code."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(Exception):
    """SIGTERM or Ctrl-C."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped in the main thread on SIGTERM or Ctrl-C while the block runs."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

"""Telling a service manager how a process fares (sd_notify(3)); nothing where none listens.

Liveness is told from where the work is done and by no thread of its own, so that what hangs falls
silent, and is started again.
"""

from __future__ import annotations

import os
import socket
import time

EVERY_S = 1.0  # between two signs of life
_last = -EVERY_S
_untold = ""  # the newest status that has not been told yet


def notify(*lines: str) -> bool:
    """Send assignments such as "READY=1"; False where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError:  # a manager that is gone must not end what it managed
        return False
    return True


def ready(status: str) -> None:
    """The process has started, and does what it is for."""
    notify("READY=1", f"STATUS={_one_line(status)}")


def alive(status: str = "") -> None:
    """Something was done just now; told once a second at most, with the newest status there is."""
    global _last, _untold
    _untold = _one_line(status) or _untold
    now = time.monotonic()
    if now - _last >= EVERY_S:
        told, _last, _untold = _untold, now, ""
        notify("WATCHDOG=1", *([f"STATUS={told}"] if told else []))


def stopping() -> None:
    """The process ends by itself."""
    notify("STOPPING=1")


def _one_line(status: str) -> str:
    """A line break would begin another assignment, and what a status quotes may come from afar."""
    return " ".join(status.split())

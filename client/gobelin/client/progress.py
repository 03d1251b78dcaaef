"""What a node's operator sees: one live line on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from gobelin.client.home import BUSY, NodeStatus
from gobelin.shared.console import LiveConsole
from gobelin.shared.logs import tell

PLAIN_EVERY_S = 10.0  # between two lines about training where there is no terminal


class Progress(LiveConsole):
    """Shows a node's status as it changes."""

    def __init__(self, name: str, as_json: bool, home: Path) -> None:
        super().__init__(as_json, "starting")
        self._name, self._home = name, home
        self._ready = False
        self._last_plain = 0.0
        self._last: tuple[str, int, str] = ("", 0, "")

    def on_status(self, status: NodeStatus) -> None:
        """Show a status: every change of state, and training now and then."""
        if status.state == "idle" and not self._ready:
            self._ready = True
            then = f"gobelin node watch --home {self._home}"
            self.say(f"{self._name} is ready; Ctrl-C stops it and loses nothing. Next: {then}")
        here = (status.state, status.round, status.note)
        due = time.monotonic() - self._last_plain >= PLAIN_EVERY_S
        self.show(describe(status))
        if here == self._last and not (due and status.state in BUSY):
            return
        self._last, self._last_plain = here, time.monotonic()
        level = logging.WARNING if status.state == "warning" else logging.INFO
        tell({"event": status.state, **_told(status)}, level)
        if not self._console.is_terminal or status.state not in BUSY:
            self.say(f"{self._name}: {describe(status)}")


def describe(status: NodeStatus) -> str:
    """One line for one status."""
    if status.state == "shadow" and status.steps:
        rate = f"step {status.step}/{status.steps}, {status.samples_per_second:,.0f} samples/s"
        return f"between rounds: {status.note}, {rate}, loss {status.loss:.3f}"
    if status.state != "training":
        return f"{status.state}: {status.note}" if status.note else status.state
    return (
        f"round {status.round}/{status.rounds}, step {status.step}/{status.steps}, "
        f"{status.samples_per_second:,.0f} samples/s, loss {status.loss:.3f}, "
        f"effective rank {status.effective_rank:.1f}, {status.time_left_s:.0f} s left"
    )


def _told(status: NodeStatus) -> dict[str, Any]:
    """A status without what does not apply to it."""
    unset = NodeStatus(status.state).facts()
    return {key: value for key, value in status.facts().items() if value != unset[key]}

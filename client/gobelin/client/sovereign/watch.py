"""What a builder sees: one live line on a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from gobelin.client.sovereign.stage import Progress
from gobelin.shared.console import LiveConsole

PLAIN_EVERY_S = 10.0  # between two lines where there is no terminal


class BuildWatch(LiveConsole):
    """Shows a build's progress."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(as_json, "reading the release and the data")
        self._last = ("", -1)  # stage, best step
        self._told = 0.0

    def on_progress(self, now: Progress) -> None:
        """Show a step: each that follows an improvement, and others now and then."""
        self._live.update(describe(now))
        here = (now.stage, now.best_step)
        if here == self._last and time.monotonic() - self._told < PLAIN_EVERY_S:
            return
        self._last, self._told = here, time.monotonic()
        if self._as_json:
            print(json.dumps({"event": "progress", **asdict(now)}), flush=True)
        elif not self._console.is_terminal:
            self.say(describe(now))


def describe(now: Progress) -> str:
    """One line."""
    return (
        f"{now.stage}: step {now.step}/{now.steps}, {now.samples_per_second:,.0f} samples/s, "
        f"loss {now.loss:.3f}, held out {now.best:.3f} at step {now.best_step}"
    )

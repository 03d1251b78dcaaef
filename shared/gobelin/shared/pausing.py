"""A pause that an operator has ordered, in the home: it outlives the process, and every restart."""

from __future__ import annotations

import datetime
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.files import find_json, sync_folder, write_json

FILE = "paused.json"
MOST = 200  # characters of a reason


@dataclass(frozen=True)
class Pause:
    """Why, and since when (seconds since 1970)."""

    reason: str
    since: int

    def __str__(self) -> str:
        at = datetime.datetime.fromtimestamp(self.since, datetime.UTC).strftime("%Y-%m-%d %H:%M")
        return f"paused: {self.reason or 'no reason given'} (since {at} UTC)"


def read_pause(home: Path) -> Pause | None:
    """The pause a home is in, or None; raises StateError on a damaged file."""
    file = home / FILE
    facts = find_json(file)  # `resume` may remove it at any time
    if facts is None:
        return None
    try:
        return Pause(str(facts["reason"]), int(facts["since"]))
    except (KeyError, TypeError, ValueError):
        raise StateError(f"{file} is no pause", "remove it, or pause again") from None


def begin_pause(home: Path, reason: str, now: float | None = None) -> Pause:
    """Pause; one that is paused already keeps its time and takes the new reason.

    Raises ConfigError on a reason that messages cannot carry.
    """
    if not reason.isascii() or not reason.isprintable() or len(reason) > MOST:
        raise ConfigError(
            f"the reason is not one line of ASCII of at most {MOST} characters", "shorten it"
        )
    before = read_pause(home)
    since = int(time.time() if now is None else now) if before is None else before.since
    pause = Pause(reason, since)
    write_json(home / FILE, asdict(pause))
    return pause


def end_pause(home: Path) -> Pause | None:
    """End the pause and return it; None where there was none."""
    before = read_pause(home)
    if before is not None:
        (home / FILE).unlink(missing_ok=True)
        sync_folder(home)
    return before

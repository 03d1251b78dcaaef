"""The event log, read as it grows: when rounds began and ended, and what is told nowhere else.

A contribution's event repeats what its round's manifest has, and is most of the log. It is parsed
for the open round alone.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gobelin.server.overview import RefusedView
from gobelin.server.places import Places, parse_event

CONTRIBUTION = (b'"event": "contribution"', b'"event": "late"')
ROUND = re.compile(rb'"round": (\d+)')
MOST_REFUSED = 200  # kept of one round: whoever sends rubbish must not fill our memory
RECENT = 40  # events that are shown


@dataclass
class RoundTimes:
    """What the log says of one round."""

    opened: float | None = None
    attempt_at: float | None = None  # when the last attempt was opened or resumed
    sealed: float | None = None
    attempts: int = 0
    received: int = 0  # bytes that nodes were sent
    refused: list[RefusedView] = field(default_factory=list)
    void: str = ""  # why its last attempt was


class EventTail:
    """What the event log has said so far; `refresh` reads what is new."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._offset = 0
        self.rounds: dict[int, RoundTimes] = {}
        self.received: Counter[str] = Counter()  # bytes, by node's name
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=RECENT)
        self.last: Mapping[str, Any] | None = None
        self.heard: float = 0.0  # when the last event was
        self.ahead: float = 0.0  # latest time in the log
        self.says = ""  # what is waited for, since the last thing that happened
        self.failure = ""
        self.finished = False
        self.lost: dict[int, float] = {}  # points that heads of the release before lose

    def refresh(self, sealed: int | None) -> bool:
        """Read what is new; of rounds up to `sealed` contributions are passed over."""
        start = self._offset
        while True:
            lines, self._offset = self._places.event_lines(self._offset)
            for line in lines:
                if _is_settled(line, sealed):
                    continue
                event = parse_event(line)
                if "event" in event:
                    self._hear(event)
            if not lines:
                return self._offset != start

    def _hear(self, event: Mapping[str, Any]) -> None:
        self.last = event
        self.recent.append(event)
        at = _time(event.get("at"))
        self.heard, self.ahead = at or self.heard, max(self.ahead, at or 0.0)
        kind, number = event["event"], event.get("round")
        self.says = str(event["reason"]) if kind == "waiting" else self.says
        if kind in ("failed", "finished"):
            self.failure = str(event.get("what", "")) if kind == "failed" else ""
            self.finished = kind == "finished"
        if not isinstance(number, int):
            return
        times = self.rounds.setdefault(number, RoundTimes())
        match kind:
            case "round_opened" | "round_resumed":
                times.opened = times.opened or at
                times.attempt_at = at
                times.attempts = max(times.attempts, int(event["attempt"]))
                times.void, self.says, self.failure = "", "", ""
                times.refused.clear()  # it may answer this attempt
            case "offered":
                self._offered(times, event["nodes"])
            case "refused" if len(times.refused) < MOST_REFUSED:
                found = str(event.get("found", ""))
                told = RefusedView(str(event["node"]), str(event["reason"]), found, at)
                times.refused.append(told)
            case "round_sealed":
                times.sealed, self.says = at, ""
            case "round_void" | "round_lost":
                times.void = str(event["reason"])
            case "release" if "head_points_lost" in event:
                self.lost[number] = float(event["head_points_lost"])

    def _offered(self, times: RoundTimes, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        for name, sent in nodes.items():
            times.received += int(sent["bytes"])
            self.received[name] += int(sent["bytes"])


def _is_settled(line: bytes, sealed: int | None) -> bool:
    """Whether a line is of a contribution that a sealed round's manifest has."""
    if sealed is None or not any(kind in line for kind in CONTRIBUTION):
        return False
    found = ROUND.search(line)
    return found is not None and int(found[1]) <= sealed


def _time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None

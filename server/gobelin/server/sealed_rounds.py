"""Sealed rounds in figures: each manifest is read once, for what is sealed never changes.

A thousand rounds of fifty members are 150 MB of manifests. What is kept of them is a point a round
and, of every node and member, a few numbers a round: some megabytes.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gobelin.protocols.messages import METRIC_DISTORTION
from gobelin.server.overview import RoundPoint
from gobelin.server.places import Places
from gobelin.shared.errors import MachineError, StateError
from gobelin.shared.files import MANIFEST, bytes_in
from gobelin.shared.premium import premium_report


@dataclass
class Series:
    """Numbers by round, in order of rounds."""

    rounds: array[int] = field(default_factory=lambda: array("I"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, number: int, value: float) -> None:
        """One more; a second of the same round is added to the first."""
        if self.rounds and self.rounds[-1] == number:
            self.values[-1] += value
        else:
            self.rounds.append(number)
            self.values.append(value)


@dataclass
class Tally:
    """What is known of one node from all sealed rounds."""

    name: str
    member: str
    contributed: int = 0
    late: int = 0
    absent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    seconds: float = 0.0
    last: Mapping[str, Any] = field(default_factory=dict)  # of its last counted row
    bytes_of: Series = field(default_factory=Series)
    seconds_of: Series = field(default_factory=Series)


class SealedRounds:
    """All sealed rounds of a home; `refresh` reads those that are new."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.points: list[RoundPoint] = []
        self.nodes: dict[str, Tally] = {}  # by id
        self.influence: dict[str, Series] = defaultdict(Series)  # by member
        self.last: dict[str, Any] = {}  # the newest round's facts, lean
        self.number: int | None = None  # of the newest
        self.bytes = 0  # of its folder
        self.batch = 0  # N that the recipe tells SIGReg at

    def refresh(self) -> bool:
        """Read what has been sealed since; whether there was something."""
        numbers = [0] if self.number is None else []
        numbers = self._places.sealed_rounds() if numbers else self._next()
        for number in numbers:
            self._read(number)
        return bool(numbers)

    def _next(self) -> list[int]:
        """The rounds behind the newest; a look at one name is enough where nothing is new."""
        assert self.number is not None
        found: list[int] = []
        while (self._places.round_folder(self.number + 1 + len(found)) / MANIFEST).exists():
            found.append(self.number + 1 + len(found))
        return found

    def _read(self, number: int) -> None:
        folder = self._places.round_folder(number)
        try:
            manifest = self._places.manifest(number)
            digest, facts = str(manifest["vector_digest"]), manifest["facts"]
            self.batch = int(manifest["recipe"]["objective"].get("reference_batch", 0))
            sealed = (folder / MANIFEST).stat().st_mtime
        except (StateError, MachineError, OSError, KeyError):  # retention has taken it, or damage
            return
        self.number = number
        rows = facts.get("contributions", ())
        for row in rows:
            self._count(number, row)
        for row in facts.get("refused", ()):
            self._tally(row).refused[str(row["reason"])] += 1
        for row in facts.get("absent", ()):
            self._tally(row).absent += 1
        for member, of in facts.get("members", {}).items():
            self.influence[member].add(number, float(of.get("influence", 0.0)))
        self.last = {k: v for k, v in facts.items() if k in ("members", "broadcast", "plan_digest")}
        self.bytes = bytes_in(folder)
        if number:
            self.points.append(point_of(digest, facts, sealed))

    def _tally(self, row: Mapping[str, Any]) -> Tally:
        tally = self.nodes.setdefault(row["id"], Tally(row["node"], row["member"]))
        tally.name, tally.member = row["node"], row["member"]
        return tally

    def _count(self, number: int, row: Mapping[str, Any]) -> None:
        tally = self._tally(row)
        tally.contributed += 1
        tally.late += bool(row.get("staleness"))
        sent, seconds = int(row.get("bytes", 0)), float(row.get("seconds", 0.0))
        tally.sent += sent
        tally.seconds += seconds
        tally.bytes_of.add(number, sent)
        tally.seconds_of.add(number, seconds)
        tally.last = last_of(number, row)


def last_of(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a node's last contribution."""
    metrics = row.get("metrics", {})
    return {
        "last_round": number,
        "local_steps": row.get("local_steps"),
        "codec": row.get("codec"),
        "sent_bytes": row.get("bytes"),
        "distortion": metrics.get(METRIC_DISTORTION),
        "loss": metrics.get("loss"),
    }


def point_of(digest: str, facts: Mapping[str, Any], sealed: float) -> RoundPoint:
    """A sealed round's point, from its recorded facts; `sealed` is when it was."""
    rows: Sequence[Mapping[str, Any]] = facts.get("contributions", ())
    losses = _told(rows, "metrics", "loss")
    training = [float(row["seconds"]) for row in rows if not row.get("staleness")]
    seconds = float(facts.get("seconds", 0.0))
    return RoundPoint(
        round=int(facts["round"]),
        digest=digest,
        contributions=len(rows),
        late=sum(1 for row in rows if row.get("staleness")),
        refused=len(facts.get("refused", ())),
        absent=len(facts.get("absent", ())),
        sent=sum(int(row.get("bytes", 0)) for row in rows),
        received=None,
        seconds=seconds,
        overhead=max(0.0, seconds - max(training, default=0.0)),
        sealed=sealed,
        loss=_mean(losses),
        loss_least=min(losses, default=None),
        loss_most=max(losses, default=None),
        prediction=_mean(_told(rows, "metrics", "prediction")),
        probe=_mean(_told(rows, "measured", "score")),
        rank=_mean(
            _told(rows, "measured", "effective_rank") or _told(rows, "metrics", "effective_rank")
        ),
        sigreg=_mean(_told(rows, "metrics", "anti_collapse")),
        distortion=_mean(_told(rows, "metrics", METRIC_DISTORTION)),
        premium=premium_report(rows).mean,
        cosine=facts.get("cosine"),
        sign_most=facts.get("sign_most"),
        sign_all=facts.get("sign_all"),
        retained=facts.get("retained_norm"),
        rotation=facts.get("frame_rotation"),
    )


def _told(rows: Iterable[Mapping[str, Any]], part: str, name: str) -> list[float]:
    """A figure of all contributions that have it."""
    return [float(row[part][name]) for row in rows if name in row.get(part, {})]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

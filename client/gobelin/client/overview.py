"""What a node's home says, as plain data: the one reading that status, terminal view and page show.

It is for this node's operator and never leaves the machine; all the same no sample, no label, no
path of data and no key is in it. Times are Unix seconds, sizes bytes. `observer` fills it.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gobelin.client.egress_ledger import CALL, LEAVING, LEFT, SESSION
from gobelin.client.home import BUSY, NodeStatus
from gobelin.client.refusals import remedy_of
from gobelin.shared.pausing import Pause

STALE_S = 60.0  # a status that is told of step by step and is older than this is no longer true
PURPOSES = ("deltas", "moments", "sealed", "cosignatures", "calls", "sessions", "other")
USUAL = 8  # rounds that say what the time between two is


@dataclass(frozen=True, slots=True)
class RoundView:
    """One round, as far as this node took part."""

    round: int
    at: float | None = None  # when its contribution first left; None where that is not on record
    bytes: Mapping[str, int] = field(default_factory=dict)  # payload, by purpose
    wire_bytes: int = 0  # all that left for it, sent again or not
    codec: str = ""
    metrics: tuple[str, ...] = ()  # names of the declared scalars
    state: str = "sent"  # spooled, sent, counted, or refused
    weight: float | None = None  # in the consensus, once it counted
    reason: str = ""  # why it did not count
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class SpoolView:
    """A contribution that lies in the spool."""

    round: int
    state: str  # spooled, receipted
    codec: str
    sent_bytes: int
    moments_bytes: int
    distortion: float
    counted: bool | None
    weight: float | None
    reason: str | None
    fate: str  # in words


@dataclass(frozen=True, slots=True)
class RefusalView:
    """A plan that this node answered by a code alone."""

    at: float
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LeftView:
    """All that has left this node, by the egress ledger."""

    departures: int  # contributions
    wire_bytes: int
    requests: int
    by_purpose: Mapping[str, int]  # bytes: payloads by what they are, and the requests between
    records: int
    head: str  # of the ledger
    broken: str = ""  # what is wrong with the ledger, where something is


@dataclass(frozen=True, slots=True)
class PremiumPoint:
    """The premium at one look at the solo model."""

    samples: int
    points: float
    consensus: float
    solo: float


@dataclass(frozen=True, slots=True)
class PremiumView:
    """What federating gives this node, by its shadow."""

    shared: bool  # whether it is told to the aggregator
    measure: str = ""  # probe or identification; "" before anything was measured
    points: float | None = None  # None before any can be told
    error: float | None = None  # half of its 95 % interval
    consensus: float | None = None
    solo: float | None = None
    today: float | None = None  # newest consensus minus newest solo, whatever each has seen
    seen_samples: int = 0  # by the solo model so far
    contributed: int = 0  # this node's samples in the federation so far
    held_out: int = 0
    share: float = 0.0  # of this node's training time, that the shadow has taken
    from_round: int = 0
    waited_s: float = 0.0  # the longest a plan has waited for the shadow
    grown: bool = False  # whether the data changed since: held-out samples may have trained before
    ended: str = ""
    history: tuple[PremiumPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU of this machine."""

    name: str
    busy: float  # 0 … 1
    memory: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class MachineView:
    """The machine, as it is now; None where it does not say."""

    cores: int
    load: float | None  # processes that want to run, mean over a minute
    memory: int | None  # used
    memory_total: int | None
    gpus: tuple[GpuView, ...]
    disk_free: int
    disk_total: int
    home_bytes: int


@dataclass(frozen=True, slots=True)
class NextView:
    """When something is to be expected; None where nobody can say."""

    done_s: float | None = None  # until this round's local steps are done
    round_s: float | None = None  # usual seconds from one round to the next
    next_at: float | None = None  # when the next plan may come
    finished_at: float | None = None  # when the last round may be over


@dataclass(frozen=True, slots=True)
class Overview:
    """Where a node stands at one moment."""

    at: float
    node: str
    member: str
    aggregator: str
    running: bool
    status: NodeStatus
    status_at: float | None  # when it said so
    rounds_planned: int
    next: NextView
    rounds: tuple[RoundView, ...]  # ascending
    refusals: tuple[RefusalView, ...]  # newest last
    left: LeftView
    premium: PremiumView | None  # None without a shadow
    machine: MachineView
    spool: tuple[SpoolView, ...]  # the last contributions
    upload_bytes_per_second: float | None  # as measured over the last sends
    egress: Mapping[str, Any]  # what may leave, by node.toml
    leaving: str  # the same in words
    privacy: str  # in words
    paused: Pause | None = None  # by its operator
    epsilon: float | None = None  # spent, where training is private

    @property
    def silent(self) -> bool:
        """Whether it runs and has said nothing for longer than a step should take."""
        busy = self.status.state in BUSY and self.status_at is not None
        return self.running and busy and self.at - (self.status_at or 0.0) > STALE_S

    @property
    def counted(self) -> int:
        """Contributions that counted."""
        return sum(of.state == "counted" for of in self.rounds)

    @property
    def mean_weight(self) -> float | None:
        """Of the contributions that counted."""
        weights = [of.weight for of in self.rounds if of.weight is not None]
        return statistics.fmean(weights) if weights else None

    def facts(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            **asdict(self),
            "silent": self.silent,
            "counted": self.counted,
            "mean_weight": self.mean_weight,
            "moments": {
                "declined": not self.egress["moments"],
                "sent_bytes": {of.round: of.moments_bytes for of in self.spool},
            },
        }


def left_of(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes by purpose: payloads of departures that left, and requests that carried none."""
    gone = {row["of"] for row in records if row["kind"] == LEFT}
    sums: dict[str, int] = dict.fromkeys(PURPOSES, 0)
    for row in records:
        if row["kind"] == LEAVING and row["number"] in gone:
            for purpose, size in _payloads(row).items():
                sums[purpose] += size
        elif row["kind"] in (SESSION, CALL):
            sums["calls" if row["kind"] == CALL else "sessions"] += row["wire_bytes"]
    wire = sum(row["wire_bytes"] for row in records if row["kind"] == LEFT)
    carried = sum(sums[name] for name in ("deltas", "moments", "sealed", "cosignatures"))
    sums["other"] = max(0, wire - carried)  # headers, envelopes, acknowledgements
    return sums


def rounds_of(records: Sequence[Mapping[str, Any]]) -> dict[int, RoundView]:
    """What left for each round, by the egress ledger; what became of it is not on it."""
    wire = {row["of"]: row["wire_bytes"] for row in records if row["kind"] == LEFT}
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in records:
        if row["kind"] == LEAVING and row["purpose"] == "contribution":
            found[row["round"]].append(row)
    views = {}
    for number, rows in found.items():
        last = rows[-1]
        gone = [row for row in rows if row["number"] in wire]
        views[number] = RoundView(
            round=number,
            at=rows[0]["at"],
            bytes={name: size for name, size in _payloads(last).items() if size} if gone else {},
            wire_bytes=sum(wire[row["number"]] for row in gone),
            codec=last["codec"],
            metrics=tuple(last["metrics"]),
            state="sent" if gone else "spooled",
        )
    return views


def refusals_of(records: Iterable[Mapping[str, Any]], most: int = 50) -> tuple[RefusalView, ...]:
    """The last plans that this node answered by a code alone."""
    codes = [
        RefusalView(row["at"], row["code"].removeprefix("gobelin:"), remedy_of(row["code"]))
        for row in records
        if row["kind"] == LEAVING and row["purpose"] == "answer"
    ]
    return tuple(codes[-most:])


def next_of(
    status: NodeStatus, running: bool, rounds: Sequence[RoundView], planned: int
) -> NextView:
    """When the next round and the last may be over, if rounds go on as the last ones did."""
    done = status.time_left_s if running and status.state == "training" else None
    left = [(of.round, of.at) for of in rounds if of.at is not None][-USUAL - 1 :]
    paces = [
        (after - before) / (number - earlier)
        for (earlier, before), (number, after) in itertools.pairwise(left)
        if number > earlier and after > before
    ]
    if not paces or not running:
        return NextView(done_s=done)
    usual, (number, at) = statistics.median(paces), left[-1]
    rest = max(0, planned - number)
    training = status.state == "training" and status.round > number
    return NextView(
        done_s=done,
        round_s=usual,
        next_at=None if training or not rest else at + usual,
        finished_at=at + usual * rest if rest else None,
    )


def _payloads(row: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a departure's payload by what they are."""
    kind = "sealed" if str(row["purpose"]).startswith("sealed.") else "deltas"
    return {
        kind: row["payload_bytes"],
        "moments": row["moments_bytes"],
        "cosignatures": row.get("cosignature_bytes", 0),
    }

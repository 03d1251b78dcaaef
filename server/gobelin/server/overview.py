"""What an aggregator's home says, as plain data: the one reading that status and pages show.

Nothing here is private: names of members and nodes, figures of rounds, and no path, sample or key.
`observer` fills it, `alerts` judges it. Times are Unix seconds, sizes bytes, durations seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from gobelin.server.alerts import Alert
from gobelin.shared.pausing import Pause

GAUSSIAN = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # SIGReg's floor: T of N(0, I)


@dataclass(frozen=True, slots=True)
class RefusedView:
    """An answer that did not count."""

    node: str
    reason: str  # a code of docs/reasons.md
    found: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class OpenView:
    """The round behind the last sealed one."""

    round: int
    phase: str  # open (too few are online), collecting, closed, aggregated or void
    attempt: int
    opened: float | None  # when it was first opened
    deadline: float | None  # when this attempt ends
    needed: int  # members
    members: tuple[str, ...] = ()  # of whom an answer counts
    nodes: tuple[str, ...] = ()  # that have answered
    late: tuple[str, ...] = ()  # that have answered an earlier round
    owing: tuple[str, ...] = ()  # that are awaited
    refused: tuple[RefusedView, ...] = ()
    says: str = ""  # what the aggregator itself says it waits for

    @property
    def quorum(self) -> bool:
        """Whether enough members have answered."""
        return len(self.members) >= self.needed


@dataclass(frozen=True, slots=True)
class NodeView:
    """One contributor node."""

    name: str
    id: str
    member: str
    role: str
    seen: float | None = None  # its last heartbeat; None: never, or nobody knows any more
    since: float | None = None  # the beginning of its session
    state: str = ""  # in the open round: in, awaited, refused, or nothing
    contributed: int = 0  # answers that counted
    late: int = 0  # of them, to an earlier round
    absent: int = 0  # rounds with a seat and no answer
    refused: Mapping[str, int] = field(default_factory=dict)  # by reason code
    sent: int = 0  # bytes of contributions
    received: int = 0  # bytes of bases and steps
    seconds: float = 0.0  # of local steps
    last_round: int | None = None  # that counted an answer of it
    local_steps: int | None = None  # of that answer, as are the next
    codec: str | None = None
    sent_bytes: int | None = None
    distortion: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member and what it has moved."""

    name: str
    nodes: tuple[str, ...]  # on the roster; none of one who has left
    influence: float = 0.0  # in the last sealed round, 0 … 1
    influence_total: float = 0.0  # over all rounds
    share: float = 0.0  # of all members' influence so far, 0 … 1
    reduced: tuple[str, ...] = ()  # codes of why it counted for less in the last round
    minority_loss: float | None = None  # share of its voice that the last round discarded
    contributed: int = 0
    late: int = 0
    absent: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundPoint:
    """A sealed round in figures; None where nobody measured."""

    round: int
    digest: str  # of the consensus it sealed
    contributions: int
    late: int
    refused: int
    absent: int
    sent: int  # bytes, of all contributions
    received: int | None  # bytes that nodes were sent
    seconds: float
    overhead: float | None  # of the seconds, beside the slowest node's local steps
    opened: float | None = None
    sealed: float | None = None
    attempts: int = 1
    loss: float | None = None  # mean over contributions, as are the next seven
    loss_least: float | None = None
    loss_most: float | None = None
    prediction: float | None = None
    probe: float | None = None  # score on the public probe
    rank: float | None = None  # effective rank, by the aggregator's own look where there is one
    sigreg: float | None = None  # statistic T at the recipe's reference batch
    distortion: float | None = None
    premium: float | None = None  # federation premium, where members tell it
    cosine: float | None = None  # of members' deltas, mean over pairs
    sign_most: float | None = None
    sign_all: float | None = None
    retained: float | None = None  # norm
    rotation: float | None = None  # of the frame, degrees


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """A published release."""

    name: str
    round: int
    issued: float
    expires: float
    bytes: int
    digest: str
    verified: str = "unknown"  # holds, broken, or unknown: nobody has looked
    found: str = ""  # what is broken
    head_points_lost: float | None = None  # by linear heads of the release before


@dataclass(frozen=True, slots=True)
class HeadView:
    """The ledger's newest head."""

    size: int
    root: str
    cosigned_by: tuple[str, ...] = ()
    witnessed: int = 0  # size of the newest head that a node has cosigned


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A child of `gobelin aggregator up`."""

    name: str
    alive: bool
    started: float
    restarts: int = 0  # since `up` was started
    memory: int | None = None  # bytes that it and its own children hold


@dataclass(frozen=True, slots=True)
class DiskView:
    """The disk that the home lies on."""

    free: int
    total: int
    round_bytes: int  # of the last sealed round


@dataclass(frozen=True, slots=True)
class Overview:
    """Where a federation stands at one moment."""

    at: float
    federation: str
    running: bool
    address: str
    service_address: str
    rounds: int  # planned
    sealed: int | None  # the last
    release_every: int
    reference_batch: int  # N that SIGReg's statistic is told at
    open: OpenView | None
    members: tuple[MemberView, ...]
    nodes: tuple[NodeView, ...]
    history: Sequence[RoundPoint]
    releases: tuple[ReleaseView, ...]  # newest first
    ledger: HeadView | None
    waiting: tuple[str, ...]  # nodes that wait to be admitted
    processes: tuple[ProcessView, ...]
    disk: DiskView
    certificate_expires: float | None = None  # the server's
    paused: Pause | None = None
    clock_ahead: float = 0.0  # seconds by which what is recorded lies in the future
    broadcast: Mapping[str, Any] | None = None  # how the last consensus is told in one step
    failure: str = ""  # why the rounds have stopped, where they have
    finished: bool = False
    last_event: Mapping[str, Any] | None = None
    alerts: tuple[Alert, ...] = ()

    @property
    def sigreg_floor(self) -> float:
        """T of a perfect Gaussian."""
        return GAUSSIAN

    @property
    def sigreg_collapsed(self) -> float:
        """T of embeddings that are one point."""
        return 0.402 * self.reference_batch

    def node(self, name: str) -> NodeView | None:
        """The node of a name."""
        return next((node for node in self.nodes if node.name == name), None)

    def member(self, name: str) -> MemberView | None:
        """The member of a name."""
        return next((member for member in self.members if member.name == name), None)

    def facts(self) -> dict[str, Any]:
        """As plain data, for `--json`: members and nodes by name, rounds in order."""
        told = {of.name: plain(getattr(self, of.name)) for of in fields(self)}
        told["members"] = {member["name"]: member for member in told["members"]}
        told["nodes"] = {node["name"]: node for node in told["nodes"]}
        return {
            **told,
            "sigreg_floor": self.sigreg_floor,
            "sigreg_collapsed": self.sigreg_collapsed,
        }


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, all the way down; what is not finite as None, as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {of.name: plain(getattr(value, of.name)) for of in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

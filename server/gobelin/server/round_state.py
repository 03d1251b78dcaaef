"""One round as a pure state machine: `step(round, event)` gives the next state and what to do.

    OPEN → COLLECTING → CLOSED → AGGREGATED → SEALED, or VOID with a reason and the base unchanged

No I/O and no clock: time is in the events. The durable events are journalled before they count;
a killed aggregator folds them again, ignoring their effects, and goes on with `Resumed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from gobelin.server.admission import Refusal
from gobelin.server.evidence import harmful
from gobelin.server.reasons import RefusalCode

ANSWERS_ANOTHER = frozenset(
    {
        RefusalCode.FEDERATION,
        RefusalCode.ROUND,
        RefusalCode.BASE_DIGEST,
        RefusalCode.PLAN_DIGEST,
    }
)


class Phase(StrEnum):
    """Where a round stands."""

    OPEN = "open"  # too few members are online
    COLLECTING = "collecting"  # the plan is offered, contributions come in
    CLOSED = "closed"  # what is in is fixed
    AGGREGATED = "aggregated"  # what it comes to is known
    SEALED = "sealed"
    VOID = "void"  # an attempt without its minimum; what it gathered stays for the next one


@dataclass(frozen=True)
class Seat:
    """A node's place in a round: who owns it, and what people call it."""

    member: str
    name: str


@dataclass(frozen=True)
class Terms:
    """What bounds a round, times in seconds."""

    needed: int  # members who must contribute
    deadline_s: float  # from the offer
    wait_s: float  # for the needed members to be online
    attempts: int
    rejoin_s: float  # what nodes need to be back after the aggregator was killed
    quality_floor: float = math.inf  # τ of `evidence.quality_floor`; none unless told
    history: Sequence[float] = ()  # members' scores in past rounds


@dataclass(frozen=True)
class Round:
    """One round; nodes are known by id, the fingerprint of their key."""

    number: int
    plan_digest: str
    base_digest: str
    terms: Terms
    since: float  # when this attempt's phase began, or went on after a kill
    phase: Phase = Phase.OPEN
    attempt: int = 1
    seats: Mapping[str, Seat] = field(default_factory=dict)  # the roster when it was convened
    counted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what was sent
    refused: Mapping[str, str] = field(default_factory=dict)  # reason codes
    roster: Mapping[str, Seat] = field(default_factory=dict)  # as it was last seen
    online: Mapping[str, str] = field(default_factory=dict)  # since when, as the courier says
    offered: Mapping[str, str] = field(default_factory=dict)  # its `online` then
    baseless: frozenset[str] = frozenset()  # nodes that must be sent the whole base
    rejoin_until: float = -math.inf  # so long absent nodes are awaited after a kill
    waiting_for: str = ""

    @property
    def members(self) -> set[str]:
        """Members with at least one counted contribution."""
        return {self.seats[node].member for node in self.counted}

    @property
    def harmful(self) -> dict[str, Refusal]:
        """Counted contributions that lie below the quality floor, as far as it is known."""
        return harmful(self.counted, self.terms.history, self.terms.quality_floor)

    @property
    def lacking(self) -> list[str]:
        """Nodes that are online, owe an answer and have not got the plan since they came."""
        return sorted(
            node
            for node, since in self.online.items()
            if node in self.seats and node not in self.counted and self.offered.get(node) != since
        )

    def owing(self, at: float) -> set[str]:
        """Nodes worth waiting for; a refused one owes no answer until it restarts."""
        near = set(self.seats) if at < self.rejoin_until else set(self.online)
        return near & set(self.seats) & set(self.roster) - set(self.counted) - set(self.refused)


# ---------------------------------------------------------------- events


@dataclass(frozen=True)
class Convened:
    """Enough members are online: the round collects from the nodes on the roster now."""

    at: float
    plan_digest: str
    attempt: int
    seats: Mapping[str, Seat]
    kind: Literal["convened"] = "convened"


@dataclass(frozen=True)
class Counted:
    """An admitted contribution is on disk."""

    at: float
    node: str
    row: Mapping[str, Any]  # what is recorded of it
    kind: Literal["counted"] = "counted"


@dataclass(frozen=True)
class Lost:
    """A counted contribution is no longer on disk as it was: it is asked for again."""

    at: float
    node: str
    kind: Literal["lost"] = "lost"


@dataclass(frozen=True)
class Closed:
    """No contribution comes in any more."""

    at: float
    kind: Literal["closed"] = "closed"


@dataclass(frozen=True)
class Voided:
    """The attempt has missed its minimum."""

    at: float
    reason: str
    kind: Literal["voided"] = "voided"


Durable = Convened | Counted | Lost | Closed | Voided


@dataclass(frozen=True)
class Looked:
    """Who is on the roster and who is online (id → since when)."""

    at: float
    roster: Mapping[str, Seat]
    online: Mapping[str, str]


@dataclass(frozen=True)
class Ticked:
    """All replies that had arrived have been taken."""

    at: float


@dataclass(frozen=True)
class Refused:
    """A reply that does not count."""

    node: str
    refusal: Refusal


@dataclass(frozen=True)
class Reopened:
    """A void round is tried again."""

    at: float


@dataclass(frozen=True)
class Resumed:
    """The aggregator was killed and has folded the journal."""

    at: float


@dataclass(frozen=True)
class Aggregated:
    """The shell holds what the contributions come to."""


@dataclass(frozen=True)
class Sealed:
    """The checkpoint folder exists."""


Event = Durable | Looked | Ticked | Refused | Reopened | Resumed | Aggregated | Sealed


# ---------------------------------------------------------------- effects


@dataclass(frozen=True)
class Record:
    """Journal an event, then step on it."""

    event: Durable


@dataclass(frozen=True)
class Offer:
    """Send the plan to nodes."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Aggregate:
    """Merge the contributions of these nodes."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Seal:
    """Write the checkpoint."""


@dataclass(frozen=True)
class Tell:
    """Put an event into the event log."""

    event: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class GiveUp:
    """Stop: the round cannot be completed."""

    what: str
    remedy: str


Effect = Record | Offer | Aggregate | Seal | Tell | GiveUp
Step = tuple[Round, tuple[Effect, ...]]


# ---------------------------------------------------------------- transitions


def screen(state: Round, node: str, error: str) -> Refusal | None:
    """Why a node's reply need not even be looked at; `error` is the code it came with."""
    if node not in state.seats or node not in state.roster:
        return Refusal(RefusalCode.NOT_ON_ROSTER, "")
    if error == f"gobelin:{RefusalCode.BASE_MISSING}":
        return Refusal(RefusalCode.BASE_MISSING, "it is sent the whole base")
    if error:
        return Refusal(RefusalCode.NODE_ERROR, error)
    if node in state.counted:
        return Refusal(RefusalCode.DUPLICATE, "this node's contribution is already counted")
    return None


def step(state: Round, event: Event) -> Step:
    """The state after an event and the effects it asks for, to be done in this order.

    Raises ValueError on an event that cannot happen in the state's phase.
    """
    match event:
        case Looked():
            return _looked(state, event)
        case Ticked():
            return _ticked(state, event.at)
        case Convened():
            return _convened(state, event)
        case Counted():
            return _counted(state, event)
        case Refused():
            return _refused(state, event)
        case Closed():
            return _closed(state)
        case Aggregated():
            _require(state, Phase.CLOSED)
            return replace(state, phase=Phase.AGGREGATED), (Seal(),)
        case Sealed():
            _require(state, Phase.AGGREGATED)
            return replace(state, phase=Phase.SEALED), ()
        case Voided():
            return _voided(state, event)
        case Reopened():
            _require(state, Phase.VOID)
            return _reopened(state, event.at), ()
        case Lost():
            return _lost(state, event)
        case Resumed():
            return _resumed(state, event.at)


def _require(state: Round, *phases: Phase) -> None:
    if state.phase not in phases:
        raise ValueError(f"a round that is {state.phase} is not {', '.join(phases)}")


def _looked(state: Round, event: Looked) -> Step:
    online = {node: since for node, since in event.online.items() if node in event.roster}
    state = replace(state, roster=event.roster, online=online)
    if state.phase is Phase.OPEN:
        return _convene(state, event.at)
    return _offer(state) if state.phase is Phase.COLLECTING else (state, ())


def _convene(state: Round, at: float) -> Step:
    """Begin to collect once enough members are online, or have contributed before."""
    here = {
        seat.member
        for node, seat in state.roster.items()
        if node in state.online or node in state.counted
    }
    needed = state.terms.needed
    if len(here) >= needed:
        convened = Convened(at, state.plan_digest, state.attempt, state.roster)
        return replace(state, waiting_for=""), (Record(convened),)
    absent = _names(state.roster, here) or "members to be admitted"
    if at >= state.since + state.terms.wait_s:
        what = f"only {len(here)} of {needed} members came online"
        remedy = f"waited for {absent}; start their nodes or lower rounds.min_members"
        return state, (GiveUp(what, remedy),)
    return _wait(state, f"{len(here)} of {needed} members are online; waiting for {absent}")


def _convened(state: Round, event: Convened) -> Step:
    _require(state, Phase.OPEN, Phase.VOID)
    state = replace(
        state,
        phase=Phase.COLLECTING,
        since=event.at,
        attempt=event.attempt,
        seats=event.seats,
        counted={n: row for n, row in state.counted.items() if n in event.seats},
        refused={},
        offered={},
    )
    opened = _tell(state, "round_opened", attempt=state.attempt, base_digest=state.base_digest)
    state, offers = _offer(state)
    return state, (opened, *offers)


def _offer(state: Round) -> Step:
    """Offer to nodes that lack the plan: new ones, and ones that restarted since the offer."""
    nodes = state.lacking
    if not nodes:
        return state, ()
    state = replace(
        state,
        offered={**state.offered, **{node: state.online[node] for node in nodes}},
        refused={node: why for node, why in state.refused.items() if node not in nodes},
    )
    return state, (Offer(tuple(nodes)),)


def _counted(state: Round, event: Counted) -> Step:
    _require(state, Phase.COLLECTING)
    if event.node in state.counted or event.node not in state.seats:
        raise ValueError(f"node {event.node} is counted already, or has no seat")
    state = replace(state, counted={**state.counted, event.node: event.row})
    return state, (_tell(state, "contribution", **event.row),)


def _refused(state: Round, event: Refused) -> Step:
    node, refusal = event.node, event.refusal
    seat = state.seats.get(node)
    name = seat.name if seat else node[:12]
    told = _tell(state, "refused", node=name, **vars(refusal))
    if not seat or node in state.counted or refusal.reason in ANSWERS_ANOTHER:
        return state, (told,)
    if refusal.reason != RefusalCode.BASE_MISSING:
        return replace(state, refused={**state.refused, node: refusal.reason}), (told,)
    if node not in state.baseless:  # else it answers an offer before the one it owes an answer to
        offered = {other: since for other, since in state.offered.items() if other != node}
        state = replace(state, baseless=state.baseless | {node}, offered=offered)
    return state, (told,)


def _ticked(state: Round, at: float) -> Step:
    """Close when nobody who is online still owes an answer, or the deadline is over."""
    if state.phase is not Phase.COLLECTING:
        return state, ()
    over = at >= state.since + state.terms.deadline_s
    owing = state.owing(at)
    below = state.harmful
    here = {state.seats[node].member for node in set(state.counted) - set(below)}
    if len(here) >= state.terms.needed:
        return state, (Record(Closed(at)),) if over or not owing else ()
    absent = _names(state.seats, here)
    missing = f"{len(here)} of {state.terms.needed} members contributed, none yet from {absent}"
    if below:
        names = ", ".join(sorted(state.seats[node].name for node in below))
        missing = f"{missing}; below the quality floor: {names}"
    if over:
        return state, (Record(Voided(at, missing)),)
    return (state, ()) if owing else _wait(state, missing)


def _closed(state: Round) -> Step:
    """What is in is fixed, and what harms is refused: only now is known how the others score."""
    _require(state, Phase.COLLECTING)
    below = state.harmful
    state = replace(
        state,
        phase=Phase.CLOSED,
        counted={node: row for node, row in state.counted.items() if node not in below},
        refused={**state.refused, **{node: why.reason for node, why in below.items()}},
    )
    told = [
        _tell(state, "refused", node=state.seats[node].name, **vars(why))
        for node, why in sorted(below.items())
    ]
    state, effects = _aggregate(state)
    return state, (*told, *effects)


def _aggregate(state: Round) -> Step:
    return state, (Aggregate(tuple(sorted(state.counted))),)


def _voided(state: Round, event: Voided) -> Step:
    _require(state, Phase.COLLECTING)
    state = replace(state, phase=Phase.VOID)
    void = _tell(state, "round_void", attempt=state.attempt, reason=event.reason)
    if state.attempt < state.terms.attempts:
        return state, (void,)
    what = f"round {state.number} had too few contributions {state.attempt} times: {event.reason}"
    remedy = "see `gobelin aggregator status`, then run `gobelin aggregator up` again"
    return state, (void, GiveUp(what, remedy))


def _reopened(state: Round, at: float) -> Round:
    """The next attempt; those of an aggregator that gave up are counted from 1 again."""
    attempt = state.attempt + 1 if state.attempt < state.terms.attempts else 1
    return replace(state, phase=Phase.OPEN, attempt=attempt, since=at)


def _lost(state: Round, event: Lost) -> Step:
    _require(state, *(phase for phase in Phase if phase is not Phase.SEALED))
    counted = {node: row for node, row in state.counted.items() if node != event.node}
    phase = Phase.COLLECTING if state.phase is Phase.CLOSED else state.phase
    state = replace(state, counted=counted, phase=phase)
    return state, (_tell(state, "lost", node=state.seats[event.node].name),)


def _resumed(state: Round, at: float) -> Step:
    """What was only in memory is gone; nodes get time to find the aggregator again."""
    rejoin_until = at + state.terms.rejoin_s
    state = replace(state, since=at, refused={}, online={}, offered={}, rejoin_until=rejoin_until)
    if state.phase is Phase.VOID:
        return _reopened(state, at), ()
    kept = [state.seats[node].name for node in sorted(state.counted)]
    told = _tell(state, "round_resumed", attempt=state.attempt, nodes=kept)
    state, effects = _aggregate(state) if state.phase is Phase.CLOSED else (state, ())
    return state, (told, *effects)


def _wait(state: Round, what: str) -> Step:
    """Say what is waited for, once."""
    if what == state.waiting_for:
        return state, ()
    return replace(state, waiting_for=what), (Tell("waiting", {"reason": what}),)


def _tell(state: Round, event: str, **facts: Any) -> Tell:
    return Tell(event, {"round": state.number, **facts})


def _names(seats: Mapping[str, Seat], but: Iterable[str]) -> str:
    return ", ".join(sorted({seat.member for seat in seats.values()} - set(but)))

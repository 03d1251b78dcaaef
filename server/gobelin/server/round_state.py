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
from fractions import Fraction
from typing import Any

from gobelin.server.admission import Refusal
from gobelin.server.evidence import harmful
from gobelin.server.reasons import RefusalCode
from gobelin.server.round_events import (
    Aggregate,
    Aggregated,
    Asked,
    Closed,
    Convened,
    Counted,
    Durable,
    Effect,
    Event,
    GiveUp,
    Looked,
    Lost,
    Offer,
    Recall,
    Record,
    Refused,
    Reopened,
    Resumed,
    Seal,
    Sealed,
    Seat,
    Tell,
    Ticked,
    Undelivered,
    Voided,
)

ANSWERS_ANOTHER = frozenset(
    {
        RefusalCode.FEDERATION,
        RefusalCode.ROUND,
        RefusalCode.BASE_DIGEST,
        RefusalCode.PLAN_DIGEST,
        RefusalCode.STALE,
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
class Terms:
    """What bounds a round, times in seconds."""

    quorum: Fraction  # share of the members with a seat who must contribute
    min_members: int  # and never fewer of them
    deadline_s: float  # from the offer
    grace_s: float  # from the moment the quorum is there
    wait_s: float  # for the needed members to be online
    attempts: int
    rejoin_s: float  # what nodes need to be back after the aggregator was killed
    quality_floor: float = math.inf  # τ of `evidence.quality_floor`; none unless told
    history: Sequence[float] = ()  # members' scores in past rounds

    def needed(self, seats: Mapping[str, Seat]) -> int:
        """How many members must contribute."""
        members = {seat.member for seat in seats.values()}
        return max(self.min_members, math.ceil(self.quorum * len(members)))


@dataclass(frozen=True)
class Round:
    """One round; nodes are known by id, the fingerprint of their key.

    `past` says which earlier rounds may still be answered, and by whom: nodes that had a seat
    in them and were not counted. Such an answer counts late, here, and once.
    """

    number: int
    plan_digest: str
    base_digest: str
    terms: Terms
    since: float  # when this attempt's phase began, or went on after a kill
    past: Mapping[int, frozenset[str]] = field(default_factory=dict)
    phase: Phase = Phase.OPEN
    attempt: int = 1
    seats: Mapping[str, Seat] = field(default_factory=dict)  # the roster when it was convened
    counted: Mapping[Asked, Mapping[str, Any]] = field(default_factory=dict)  # what was sent
    refused: Mapping[Asked, RefusalCode] = field(default_factory=dict)
    roster: Mapping[str, Seat] = field(default_factory=dict)  # as it was last seen
    online: Mapping[str, str] = field(default_factory=dict)  # since when, as the courier says
    offered: Mapping[Asked, str] = field(default_factory=dict)  # the node's `online` then
    baseless: frozenset[str] = frozenset()  # nodes that must be sent the whole base
    enough_since: float = math.inf  # when the quorum was there
    rejoin_until: float = -math.inf  # so long absent nodes are awaited after a kill
    waiting_for: str = ""

    @property
    def answered(self) -> set[str]:
        """Nodes whose answer to this round's own plan is counted."""
        return {asked.node for asked in self.counted if asked.round == self.number}

    @property
    def harmful(self) -> dict[Asked, Refusal]:
        """Counted contributions that lie below the quality floor, as far as it is known."""
        return harmful(self.counted, self.terms.history, self.terms.quality_floor)

    @property
    def members(self) -> set[str]:
        """Members of whom a node has answered, and well: late answers are no part of a quorum."""
        well = set(self.counted) - set(self.harmful)
        return {self.seats[asked.node].member for asked in well if asked.round == self.number}

    @property
    def needed(self) -> int:
        """How many members must have answered."""
        return self.terms.needed(self.seats)

    def lacking(self, number: int) -> tuple[str, ...]:
        """Nodes online that may answer a round and have not been asked since they came."""
        may = self.seats if number == self.number else self.past[number] - self._judged(number)
        return tuple(
            sorted(
                node
                for node, since in self.online.items()
                if node in may and node in self.seats
                if Asked(node, number) not in self.counted
                and self.offered.get(Asked(node, number)) != since
            )
        )

    def _judged(self, number: int) -> set[str]:
        """Nodes whose answer to a round was refused."""
        return {asked.node for asked in self.refused if asked.round == number}

    def owing(self, at: float) -> set[str]:
        """Nodes worth waiting for; a refused one owes no answer until it restarts."""
        near = set(self.seats) if at < self.rejoin_until else set(self.online)
        done = self.answered | self._judged(self.number)
        return (near & set(self.seats) & set(self.roster)) - done


Step = tuple[Round, tuple[Effect, ...]]


def screen(state: Round, node: str, number: int) -> Refusal | None:
    """Why a node's answer to a round's plan need not even be looked at."""
    if node not in state.seats or node not in state.roster:
        return Refusal(RefusalCode.NOT_ON_ROSTER, "")
    again = f"this node's contribution to round {number} is already counted"
    if Asked(node, number) in state.counted:
        return Refusal(RefusalCode.DUPLICATE, again)
    if number < state.number:
        if number not in state.past:
            return Refusal(RefusalCode.STALE, f"made for round {number}, this is {state.number}")
        if node not in state.past[number]:
            return Refusal(RefusalCode.DUPLICATE, f"round {number} has had its word on this node")
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
        case Undelivered():
            return _undelivered(state, event), ()
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


def fold(state: Round, events: Iterable[Durable]) -> Round:
    """What a journal says of a round; the effects of its events are past."""
    for event in events:
        state, _ = step(state, event)
    return state


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
        if node in state.online or node in state.answered
    }
    needed = state.terms.needed(state.roster)
    if len(here) >= needed:
        convened = Convened(at, state.plan_digest, state.attempt, state.roster, state.past)
        return replace(state, waiting_for=""), (Record(convened),)
    absent = _names(state.roster, here) or "members to be admitted"
    if at >= state.since + state.terms.wait_s:
        what = f"only {len(here)} of {needed} members came online"
        remedy = f"waited for {absent}; start their nodes, or lower rounds.quorum"
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
        past=event.past,
        counted={asked: row for asked, row in state.counted.items() if asked.node in event.seats},
        refused={},
        offered={a: since for a, since in state.offered.items() if a.round != state.number},
        enough_since=math.inf,
    )
    state = _enough(state, event.at)
    opened = _tell(state, "round_opened", attempt=state.attempt, base_digest=state.base_digest)
    state, offers = _offer(state)
    return state, (opened, *offers)


def _offer(state: Round) -> Step:
    """Ask nodes that lack a plan: new ones, and ones that restarted since they were asked.

    What may still come late is asked for first: a node answers in order, and training takes long.
    """
    effects: list[Effect] = []
    for number in [*sorted(state.past), state.number]:
        nodes = state.lacking(number)
        if not nodes:
            continue
        asked = {Asked(node, number): state.online[node] for node in nodes}
        state = replace(state, offered={**state.offered, **asked})
        if number == state.number:
            refused = {one: why for one, why in state.refused.items() if one not in asked}
            state = replace(state, refused=refused)
            effects.append(Offer(nodes))
        else:
            effects.append(Recall(number, nodes))
    return state, tuple(effects)


def _undelivered(state: Round, event: Undelivered) -> Round:
    asked = Asked(event.node, event.round)
    return replace(state, offered={a: since for a, since in state.offered.items() if a != asked})


def _counted(state: Round, event: Counted) -> Step:
    _require(state, Phase.COLLECTING)
    if refusal := screen(replace(state, roster=state.seats), event.node, event.round):
        raise ValueError(f"node {event.node} cannot be counted: {refusal.reason}")
    counted = {**state.counted, Asked(event.node, event.round): event.row}
    state = _enough(replace(state, counted=counted), event.at)
    kind = "contribution" if event.round == state.number else "late"
    return state, (_tell(state, kind, **event.row),)


def _enough(state: Round, at: float) -> Round:
    """The grace begins when the quorum is there."""
    if len(state.members) < state.needed:
        return replace(state, enough_since=math.inf)
    return replace(state, enough_since=min(state.enough_since, at))


def _refused(state: Round, event: Refused) -> Step:
    asked, refusal = Asked(event.node, event.round), event.refusal
    seat = state.seats.get(asked.node)
    name = seat.name if seat else asked.node[:12]
    told = _tell(state, "refused", node=name, **vars(refusal))
    may = state.seats if asked.round == state.number else state.past.get(asked.round, ())
    owed = seat is not None and asked.node in may and asked not in state.counted
    if not owed or refusal.reason in ANSWERS_ANOTHER:
        return state, (told,)
    if refusal.reason != RefusalCode.BASE_MISSING:
        return replace(state, refused={**state.refused, asked: refusal.reason}), (told,)
    if asked.round == state.number and asked.node not in state.baseless:
        # else it answers an offer before the one it owes an answer to
        state = replace(state, baseless=state.baseless | {asked.node})
        state = _undelivered(state, Undelivered(*asked))
    return state, (told,)


def _ticked(state: Round, at: float) -> Step:
    """Close when nobody who is online still owes an answer, or deadline or grace is over."""
    if state.phase is not Phase.COLLECTING:
        return state, ()
    terms, owing = state.terms, state.owing(at)
    over = at >= state.since + terms.deadline_s
    if state.enough_since <= at:
        close = over or not owing or at >= state.enough_since + terms.grace_s
        return state, (Record(Closed(at)),) if close else ()
    here = state.members
    absent = _names(state.seats, here)
    missing = f"{len(here)} of {state.needed} members contributed, none yet from {absent}"
    if below := state.harmful:
        names = ", ".join(sorted(state.seats[asked.node].name for asked in below))
        missing = f"{missing}; below the quality floor: {names}"
    if over:
        return state, (Record(Voided(at, missing)),)
    return (state, ()) if owing else _wait(state, missing)


def _closed(state: Round) -> Step:
    """What is in is fixed, and what harms is refused: only now is known how the others score."""
    _require(state, Phase.COLLECTING)
    below = state.harmful
    told = [
        _tell(state, "refused", node=state.seats[asked.node].name, **vars(why))
        for asked, why in sorted(below.items())
    ]
    state = replace(
        state,
        phase=Phase.CLOSED,
        counted={asked: row for asked, row in state.counted.items() if asked not in below},
        refused={**state.refused, **{asked: why.reason for asked, why in below.items()}},
    )
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
    lost = Asked(event.node, event.round)
    counted = {asked: row for asked, row in state.counted.items() if asked != lost}
    phase = Phase.COLLECTING if state.phase is Phase.CLOSED else state.phase
    state = _enough(replace(state, counted=counted, phase=phase), event.at)
    return state, (_tell(state, "lost", node=state.seats[event.node].name),)


def _resumed(state: Round, at: float) -> Step:
    """What was only in memory is gone; nodes get time to find the aggregator again."""
    rejoin_until = at + state.terms.rejoin_s
    state = replace(
        state,
        since=at,
        refused={},
        online={},
        offered={},
        enough_since=math.inf,
        rejoin_until=rejoin_until,
    )
    state = _enough(state, at)
    if state.phase is Phase.VOID:
        return _reopened(state, at), ()
    kept = [state.seats[asked.node].name for asked in sorted(state.counted)]
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

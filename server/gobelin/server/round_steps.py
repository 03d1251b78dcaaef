"""One round as a pure state machine: `step(round, event)` gives the next state and what to do.

    OPEN → COLLECTING → CLOSED → AGGREGATED → SEALED, or VOID with a reason and the base unchanged

No I/O and no clock: time is in the events. The durable events are journalled before they count;
a killed aggregator folds them again, ignoring their effects, and goes on with `Resumed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gobelin.server.reasons import RefusalCode
from gobelin.server.round_events import (
    Aggregate,
    Aggregated,
    Asked,
    Closed,
    Convened,
    Counted,
    Dropped,
    Durable,
    Effect,
    Event,
    GiveUp,
    Looked,
    Lost,
    Notify,
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
from gobelin.server.round_state import Phase, Round, screen

ANSWERS_ANOTHER = frozenset(
    {
        RefusalCode.FEDERATION,
        RefusalCode.ROUND,
        RefusalCode.BASE_DIGEST,
        RefusalCode.PLAN_DIGEST,
        RefusalCode.STALE,
    }
)


Step = tuple[Round, tuple[Effect, ...]]


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
        case Dropped():
            return _dropped(state, event)
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
        return _hold(state, event) if event.paused else _convene(state, event.at)
    return _offer(state) if state.phase is Phase.COLLECTING else (state, ())


def _hold(state: Round, event: Looked) -> Step:
    """Ask nobody for anything, tell whoever comes why, and count no time as waited."""
    told = {node: f"{since} {event.paused}" for node, since in state.online.items()}
    new = tuple(sorted(node for node in told if state.notified.get(node) != told[node]))
    state = replace(state, since=event.at, notified=told)
    state, waiting = _wait(state, event.paused)
    return state, (*((Notify(new, event.paused),) if new else ()), *waiting)


def _convene(state: Round, at: float) -> Step:
    """Begin to collect once enough members take part, or have contributed before."""
    here = {
        seat.member
        for node, seat in state.roster.items()
        if state.present(node) or node in state.answered
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
        refused={
            Asked(node, state.number): RefusalCode.PAUSED
            for node in state.online
            if node in event.seats and not state.present(node)
        },
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
    if refusal.reason == RefusalCode.PAUSED:
        state = replace(state, away={**state.away, asked.node: state.online.get(asked.node, "")})
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
    if state.gone and len(state.able) < state.needed:
        over, missing = True, f"{missing}; off the roster: {', '.join(sorted(state.gone))}"
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


def _dropped(state: Round, event: Dropped) -> Step:
    """A sealed round's sum is of those that are left."""
    _require(state, Phase.CLOSED)
    gone = {asked for asked in state.counted if asked.node in event.nodes}
    told = [
        _tell(state, "refused", node=state.seats[asked.node].name, reason=event.reason)
        for asked in sorted(gone)
    ]
    counted = {asked: row for asked, row in state.counted.items() if asked not in gone}
    refused = {**state.refused, **dict.fromkeys(gone, event.reason)}
    return replace(state, counted=counted, refused=refused), tuple(told)


def _voided(state: Round, event: Voided) -> Step:
    """Also when closed: a sealed round is known to lack its minimum once its sum is asked for."""
    _require(state, Phase.COLLECTING, Phase.CLOSED)
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
        away={},
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

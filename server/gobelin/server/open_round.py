"""The shell of one round: feeds events to the state machine and does what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gobelin.protocols.messages import RoundPlan
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.courier import Courier, Parcel, Reply
from gobelin.server.deltas import RoundDeltas
from gobelin.server.dispatch import Dispatch
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.node_record import settle
from gobelin.server.pooling import pool_members
from gobelin.server.quality import Examiner
from gobelin.server.round_state import (
    Aggregate,
    Aggregated,
    Convened,
    Counted,
    Durable,
    Effect,
    Event,
    GiveUp,
    Looked,
    Lost,
    Offer,
    Phase,
    Record,
    Refused,
    Reopened,
    Resumed,
    Round,
    Seal,
    Sealed,
    Seat,
    Tell,
    Terms,
    Ticked,
    screen,
    step,
)
from gobelin.server.seal import Outcome, Sealer, Standing
from gobelin.shared.errors import RoundError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.objective import Moments

POLL_S = 0.2
LOOK_EVERY_S = 1.0  # who is online


@dataclass(frozen=True)
class Rim:
    """What rounds touch of the world."""

    home: AggregatorHome
    journal: Journal
    courier: Courier
    examiner: Examiner
    sealer: Sealer
    tell: Callable[[str, Mapping[str, Any]], None]  # into the event log
    clock: Callable[[], float]
    sleep: Callable[[float], None]


class OpenRound:
    """Runs one round to its seal, from where its journal says it stands."""

    def __init__(self, rim: Rim, plan: RoundPlan, terms: Terms, standing: Standing) -> None:
        self._rim = rim
        self._plan = plan
        self._standing = standing
        self._dispatch = Dispatch(rim.home, standing)
        self._state = Round(plan.round, plan.digest, plan.base_digest, terms, rim.clock())
        schema = standing.base.schema
        self._fragment = fragment_of_round(schema, plan.fragments, plan.round)
        self._deltas = RoundDeltas(rim.home.collecting, self._fragment.schema.size)
        self._moments: dict[str, Moments] = {}  # by node, of those who did not decline
        self._dim = rim.home.recipe().projector.out
        self._outcome: Outcome | None = None
        self._look_at = rim.clock()

    def run(self) -> Standing:
        """What the sealed round leaves; raises RoundError when it cannot be sealed."""
        try:
            self._resume()
            while self._outcome is None or self._state.phase is not Phase.SEALED:
                self._turn()
        finally:
            self._deltas.remove()
        self._rim.journal.clear()
        return self._outcome.standing

    def _resume(self) -> None:
        """Fold the journal of this very plan; any other is of a round that is over."""
        events = self._rim.journal.events()
        match events:
            case [Convened(plan_digest=digest), *_] if digest == self._plan.digest:
                for event in events:
                    self._state, _ = step(self._state, event)
                for node in sorted(self._state.counted):
                    self._restore(node)
                self._advance(Resumed(self._rim.clock()))
            case _:
                self._rim.journal.clear()

    def _restore(self, node: str) -> None:
        """Read a counted contribution again and admit it as when it came."""
        reply = self._rim.journal.reply(node)
        found = reply and self._admit(reply)
        row, seat = self._state.counted[node], self._state.seats[node]
        if isinstance(found, Admitted) and row_of(seat, found, row["measured"]) == row:
            self._hold(node, found)
        else:
            self._advance(Lost(self._rim.clock(), node))

    def _turn(self) -> None:
        """Look who is there, take what has come, and let time pass."""
        clock = self._rim.clock
        if self._state.phase is Phase.VOID:
            self._advance(Reopened(clock()))
        if clock() >= self._look_at:
            self._look()
            self._look_at = clock() + LOOK_EVERY_S
        if self._state.phase is Phase.COLLECTING:
            for reply in self._rim.courier.replies():
                self._take(reply)
        self._advance(Ticked(clock()))
        if self._state.phase is not Phase.SEALED:
            self._rim.sleep(POLL_S)

    def _look(self) -> None:
        roster = {n.id: Seat(n.member, n.name) for n in self._rim.home.roster().nodes}
        online = {s.id: s.activated_at for s in self._rim.courier.nodes() if s.online}
        self._advance(Looked(self._rim.clock(), roster, online))

    def _take(self, reply: Reply) -> None:
        """Count one reply once it is on disk, or record why it does not count."""
        found = screen(self._state, reply.node, reply.error) or self._admit(reply)
        if isinstance(found, Refusal):
            return self._advance(Refused(reply.node, found))
        whole = self._fragment.widen(found.delta)
        measured = self._rim.examiner.examine(self._standing.base, whole)
        if isinstance(measured, Refusal):
            return self._advance(Refused(reply.node, measured))
        self._rim.journal.keep(reply)
        self._hold(reply.node, found)
        row = row_of(self._state.seats[reply.node], found, measured)
        return self._advance(Counted(self._rim.clock(), reply.node, row))

    def _hold(self, node: str, admitted: Admitted) -> None:
        self._deltas.add(node, admitted.delta)
        if admitted.moments is not None:
            self._moments[node] = admitted.moments

    def _admit(self, reply: Reply) -> Admitted | Refusal:
        schema = self._fragment.schema
        return admit(self._plan, schema, self._dim, reply.header, reply.arrays, reply.moments)

    def _advance(self, event: Event) -> None:
        """Step on an event, journalled first if it is durable, and do what it asks for."""
        state, effects = step(self._state, event)
        if isinstance(event, Durable):
            self._rim.journal.append(event)
        self._state = state
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Record(event):
                self._advance(event)
            case Offer(nodes):
                self._send(nodes)
            case Aggregate(nodes):
                self._aggregate(nodes)
                self._advance(Aggregated())
            case Seal():
                self._seal()
                self._advance(Sealed())
            case Tell(event, facts):
                self._rim.tell(event, facts)
            case GiveUp(what, remedy):
                raise RoundError(what, remedy)

    def _send(self, nodes: Iterable[str]) -> None:
        """Offer the plan to nodes, and tell what each of them is sent as its base."""
        sent: dict[str, dict[str, int | None]] = {}

        def note(parcel: Parcel) -> Parcel:
            if parcel.enclosure is not None:
                sent[self._state.seats[parcel.node].name] = parcel.enclosure.facts()
            return parcel

        offers = self._dispatch.offers(self._plan, nodes, self._state.baseless)
        self._rim.courier.send(map(note, offers))
        self._rim.tell("offered", {"round": self._plan.round, "nodes": sent})

    def _aggregate(self, nodes: Sequence[str]) -> None:
        self._deltas.keep_only(nodes)
        rows = [self._state.counted[node] for node in self._deltas.names]
        moments = {node: self._moments[node] for node in nodes if node in self._moments}
        pooled = pool_members(
            moments, {node: seat.member for node, seat in self._state.seats.items()}
        )
        sealer = self._rim.sealer
        outcome = sealer.aggregate(self._standing, self._fragment, self._deltas, rows, pooled)
        records = settle(self._standing.records, self._plan, self._state, outcome.rows)
        self._outcome = replace(outcome, standing=replace(outcome.standing, records=records))

    def _seal(self) -> None:
        if self._outcome is None:
            raise ValueError("a round is aggregated before it is sealed")
        seconds = self._rim.clock() - self._state.since
        self._rim.sealer.seal(self._plan, self._outcome, seconds)


def row_of(seat: Seat, admitted: Admitted, measured: Mapping[str, float]) -> dict[str, Any]:
    """What is recorded of a contribution; `measured` by the aggregator, `metrics` as it says."""
    made = admitted.contribution
    return {
        "member": seat.member,
        "node": seat.name,
        "delta_digest": made.delta_digest,
        "delta_norm": admitted.delta.norm(),
        "codec": made.codec,
        "bytes": admitted.payload_bytes,
        "moments_digest": made.moments_digest,
        "local_steps": made.local_steps,
        "images": made.images,
        "seconds": made.seconds,
        "measured": dict(measured),
        "metrics": dict(made.metrics),
    }

"""The shell of one round: feeds events to the state machine and does what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.messages import (
    NOT_SPOOLED,
    SUPERSEDED,
    Contribution,
    MalformedMessageError,
    RoundPlan,
)
from gobelin.server.admission import Admitted, Refusal, admit
from gobelin.server.courier import Courier, Reply
from gobelin.server.deltas import RoundDeltas
from gobelin.server.history import Past
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.quality import CollapseGate
from gobelin.server.round_events import (
    Aggregate,
    Aggregated,
    Asked,
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
)
from gobelin.server.round_state import Phase, Round, Terms, fold, screen, step
from gobelin.server.seal import Outcome, Sealer, Standing
from gobelin.shared.errors import RoundError

POLL_S = 0.2
LOOK_EVERY_S = 1.0  # who is online
NO_ANSWER = frozenset({NOT_SPOOLED, SUPERSEDED})  # nothing is wrong, and nothing is owed less


@dataclass(frozen=True)
class Rim:
    """What rounds touch of the world."""

    home: AggregatorHome
    journal: Journal
    courier: Courier
    gate: CollapseGate | None
    sealer: Sealer
    tell: Callable[[str, Mapping[str, Any]], None]  # into the event log
    clock: Callable[[], float]
    sleep: Callable[[float], None]


class OpenRound:
    """Runs one round to its seal, from where its journal says it stands."""

    def __init__(
        self,
        rim: Rim,
        plan: RoundPlan,
        terms: Terms,
        standing: Standing,
        past: Mapping[int, Past],
        offered: Mapping[Asked, str],
    ) -> None:
        """`past` are the rounds that may still be answered, `offered` what nodes were asked."""
        self._rim = rim
        self._plan = plan
        self._plans = {**{number: of.plan for number, of in past.items()}, plan.round: plan}
        self._numbers = {of.digest: number for number, of in self._plans.items()}
        self._standing = standing
        self._state = Round(
            plan.round,
            plan.digest,
            plan.base_digest,
            terms,
            rim.clock(),
            {number: of.owing for number, of in past.items()},
            offered=offered,
        )
        self._deltas = RoundDeltas(rim.home.collecting, standing.base.schema.size)
        self._outcome: Outcome | None = None
        self._look_at = rim.clock()

    @property
    def offered(self) -> Mapping[Asked, str]:
        """What nodes were asked, for the next round to know what may still come."""
        return self._state.offered

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
                self._state = fold(self._state, events)
                for asked in sorted(self._state.counted):
                    self._restore(asked)
                self._advance(Resumed(self._rim.clock()))
            case _:
                self._rim.journal.clear()

    def _restore(self, asked: Asked) -> None:
        """Read a counted contribution again and admit it as when it came."""
        reply = self._rim.journal.reply(asked)
        found = reply and self._admit(asked.round, reply)
        digest = self._state.counted[asked]["delta_digest"]
        if isinstance(found, Admitted) and found.contribution.delta_digest == digest:
            self._deltas.add(str(asked), found.delta)
        else:
            self._advance(Lost(self._rim.clock(), *asked))

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
        if reply.lost or reply.error:
            return self._miss(reply)
        asked = Asked(reply.node, self._answered(reply))
        found = screen(self._state, *asked) or self._judge(asked, reply)
        if isinstance(found, Refusal):
            return self._advance(Refused(*asked, found))
        self._rim.journal.keep(asked, reply)
        self._deltas.add(str(asked), found.delta)
        row = row_of(asked, self._state.seats[asked.node], self._plan, found)
        return self._advance(Counted(self._rim.clock(), *asked, row))

    def _miss(self, reply: Reply) -> None:
        """A reply without a contribution; one to a plan that is past answering means nothing."""
        number = self._numbers.get(reply.plan or self._plan.digest)
        if number is None or reply.error in NO_ANSWER:
            return
        if reply.lost:
            self._advance(Undelivered(reply.node, number))
        else:
            self._advance(Refused(reply.node, number, Refusal("node_error", reply.error)))

    def _answered(self, reply: Reply) -> int:
        """The round a reply says it is made for, or the open one where it says nothing."""
        try:
            return Contribution.from_bytes(reply.header).round
        except MalformedMessageError:
            return self._plan.round

    def _judge(self, asked: Asked, reply: Reply) -> Admitted | Refusal:
        found = self._admit(asked.round, reply)
        if isinstance(found, Admitted) and self._rim.gate is not None:
            return self._rim.gate.judge(self._standing.base, found.delta) or found
        return found

    def _admit(self, number: int, reply: Reply) -> Admitted | Refusal:
        plan = self._plans.get(number, self._plan)
        return admit(plan, self._standing.base.schema, reply.header, reply.arrays)

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
                self._rim.courier.send(nodes, self._plan, self._standing.base)
            case Recall(number, nodes):
                self._rim.courier.send(nodes, self._plans[number], None)
            case Aggregate(asked):
                self._deltas.keep_only(map(str, asked))
                rows = [self._state.counted[one] for one in asked]
                self._outcome = self._rim.sealer.aggregate(self._standing, self._deltas, rows)
                self._advance(Aggregated())
            case Seal():
                self._seal()
                self._advance(Sealed())
            case Tell(event, facts):
                self._rim.tell(event, facts)
            case GiveUp(what, remedy):
                raise RoundError(what, remedy)

    def _seal(self) -> None:
        if self._outcome is None:
            raise ValueError("a round is aggregated before it is sealed")
        seconds = self._rim.clock() - self._state.since
        self._rim.sealer.seal(self._plan, self._state, self._outcome, seconds)


def row_of(asked: Asked, seat: Seat, plan: RoundPlan, admitted: Admitted) -> dict[str, Any]:
    """What is recorded of a contribution to a round of this plan."""
    made = admitted.contribution
    return {
        "member": seat.member,
        "node": seat.name,
        "id": asked.node,
        "staleness": plan.round - asked.round,  # rounds
        "plan_digest": made.plan_digest,
        "base_digest": made.base_digest,
        "delta_digest": made.delta_digest,
        "delta_norm": admitted.delta.norm(),
        "codec": made.codec,
        "bytes": admitted.payload_bytes,
        "images": made.images,
        "seconds": made.seconds,
        "metrics": dict(made.metrics),
    }

"""The shell of one round: feeds events to the state machine and does what it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gobelin.protocols.messages import (
    Contribution,
    MalformedMessageError,
    RoundPlan,
)
from gobelin.server.admission import Admitted, Announced, Refusal, admit, admit_sealed
from gobelin.server.answers import NO_ANSWER, refusal_of
from gobelin.server.contribution_row import row_of
from gobelin.server.courier import Parcel, Reply
from gobelin.server.deltas import GroupedDeltas
from gobelin.server.dispatch import Dispatch
from gobelin.server.history import Past, answerable
from gobelin.server.merge import Merges
from gobelin.server.node_record import settle
from gobelin.server.pooling import pool_modalities
from gobelin.server.provenance import trace
from gobelin.server.reasons import RefusalCode
from gobelin.server.rim import LOOK_EVERY_S, POLL_S, Rim
from gobelin.server.round_events import (
    Aggregate,
    Aggregated,
    Asked,
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
from gobelin.server.round_state import Known, Phase, Round, Terms, screen
from gobelin.server.round_steps import fold, step
from gobelin.server.seal import Outcome, Standing
from gobelin.server.sealed_exchange import Exchange, Opened, TooFew, answers_a_call
from gobelin.server.sealed_merge import SealedMerger
from gobelin.server.sealed_roster import placed
from gobelin.shared.errors import GarbledSumError, RoundError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.logs import bound
from gobelin.shared.objective import Moments
from gobelin.shared.objective.pools import Pools
from gobelin.shared.patience import pause
from gobelin.shared.pausing import read_pause


class OpenRound:
    """Runs one round to its seal, from where its journal says it stands."""

    def __init__(
        self,
        rim: Rim,
        plan: RoundPlan,
        terms: Terms,
        standing: Standing,
        past: Mapping[int, Past],
        known: Known,
    ) -> None:
        """`past` are the rounds that may still be answered, `known` what the last has left.

        Of what nodes were offered only what may be answered in a round to come is kept: rounds are
        many.
        """
        self._rim = rim
        self._plan = plan
        self._plans = {**{number: of.plan for number, of in past.items()}, plan.round: plan}
        self._numbers = {of.digest: number for number, of in self._plans.items()}
        self._standing = standing
        self._dispatch = Dispatch(rim.home, standing, rim.envelopes, rim.ledger, rim.tell)
        oldest = plan.round - terms.max_staleness
        self._state = Round(
            plan.round,
            plan.digest,
            plan.base_digest,
            terms,
            rim.clock(),
            {number: of.owing for number, of in past.items()},
            offered={asked: at for asked, at in known.offered.items() if asked.round >= oldest},
            away=known.away,
        )
        schema = standing.base.schema
        self._fragment = fragment_of_round(schema, plan.fragments, plan.round)
        recipe = rim.home.recipe()
        self._modalities = recipe.told_modalities
        self._schemas = {name: self._fragment.part(name).schema for name in self._modalities}
        self._deltas = GroupedDeltas(rim.home.collecting, self._fragment, self._modalities)
        self._moments: dict[str, Moments] = {}  # by node, of those who did not decline
        self._dim = recipe.projector.out
        self._batch = recipe.inner.batch_size
        self._outcome: Outcome | None = None
        self._look_at = self._waits_since = rim.clock()

    @property
    def known(self) -> Known:
        """What nodes were asked and who has paused, for the next round."""
        return Known(self._state.offered, self._state.away)

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
        found = reply and self._admit(asked, reply, None)
        row = self._state.counted[asked]
        if (
            reply is not None
            and isinstance(found, Admitted | Announced)
            and self._row(asked, found, reply, row["measured"]) == row
        ):
            self._hold(asked, found)
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
                with bound(**self._context(reply.node)):
                    self._take(reply)
                self._waits_since = clock()
                del reply  # else it is held while the next one is pulled
        self._advance(Ticked(clock()))
        if self._state.phase is not Phase.SEALED:
            self._rim.sleep(pause(clock() - self._waits_since, *POLL_S))

    def _context(self, node: str) -> dict[str, Any]:
        """What is logged while a node's reply is looked at is about."""
        seat = self._state.seats.get(node)
        named = {"member": seat.member, "node": seat.name} if seat else {"node": node[:12]}
        return {"attempt": self._state.attempt, **named}

    def _look(self) -> None:
        nodes = self._rim.home.roster().contributors
        roster = {n.id: Seat(n.member, n.name, n.signing_key) for n in nodes}
        online = {s.id: s.activated_at for s in self._rim.courier.nodes() if s.online}
        paused = read_pause(self._rim.home.folder)
        told = "" if paused is None else str(paused)
        self._advance(Looked(self._rim.clock(), roster, online, told))

    def _take(self, reply: Reply) -> None:
        """Count one reply once it is on disk, or record why it does not count."""
        if reply.cosignature:
            self._rim.ledger.take(reply.node, reply.cosignature)
        if reply.lost or reply.error:
            return self._miss(reply)
        if answers_a_call(reply) or self._acknowledges(reply):
            return None  # of a call it came too late for its phase
        asked = Asked(reply.node, self._answered(reply))
        found = screen(self._state, *asked) or self._admit(asked, reply, self._rim.envelopes.now())
        if isinstance(found, Refusal):
            return self._advance(Refused(*asked, found))
        measured = self._examine(found)
        if isinstance(measured, Refusal):
            return self._advance(Refused(*asked, measured))
        self._rim.journal.keep(asked, reply)
        self._hold(asked, found)
        row = self._row(asked, found, reply, measured)
        return self._advance(Counted(self._rim.clock(), *asked, row))

    def _examine(self, found: Admitted | Announced) -> Mapping[str, float] | Refusal:
        """What a contribution is measured to be worth; of one to be masked nothing is known."""
        if isinstance(found, Announced):
            return {}
        modality = found.contribution.modality
        whole = self._fragment.part(modality).widen(found.delta)
        return self._rim.examiner.examine(self._standing.base, whole, modality)

    def _miss(self, reply: Reply) -> None:
        """A reply without a contribution; one to a plan that is past answering means nothing."""
        number = self._numbers.get(reply.plan or self._plan.digest)
        if number is None or reply.error in NO_ANSWER:
            return
        if reply.lost:
            self._advance(Undelivered(reply.node, number))
        else:
            self._advance(Refused(reply.node, number, refusal_of(reply.error)))

    def _acknowledges(self, reply: Reply) -> bool:
        """Whether a reply answers a notice: no plan, by nothing."""
        return not reply.header and bool(reply.plan) and reply.plan not in self._numbers

    def _answered(self, reply: Reply) -> int:
        """The round a reply says it is made for, or the open one where it says nothing."""
        try:
            return Contribution.from_bytes(reply.header).round
        except MalformedMessageError:
            return self._plan.round

    def _owners(self, nodes: Iterable[str]) -> dict[str, str]:
        return {node: self._state.seats[node].member for node in nodes}

    def _hold(self, asked: Asked, admitted: Admitted | Announced) -> None:
        if isinstance(admitted, Announced):
            return
        self._deltas.add(str(asked), admitted.contribution.modality, admitted.delta)
        if admitted.moments is not None and asked.round == self._plan.round:
            self._moments[asked.node] = admitted.moments  # a late one's are of another base

    def _admit(self, asked: Asked, reply: Reply, now: int | None) -> Admitted | Announced | Refusal:
        """`now` is the wall clock's; None for what has been counted before."""
        seat, header = self._state.seats[asked.node], reply.header
        if refusal := trace(asked.node, seat, header, reply.envelope, now):
            return refusal
        plan = self._plans.get(asked.round, self._plan)
        beside = reply.arrays, reply.moments
        if plan.sealed:
            return admit_sealed(plan, header, *beside, batch=self._batch)
        return admit(plan, self._schemas, self._dim, header, *beside, batch=self._batch)

    def _row(
        self,
        asked: Asked,
        admitted: Admitted | Announced,
        reply: Reply,
        measured: Mapping[str, float],
    ) -> dict[str, Any]:
        """What is recorded of a contribution."""
        late = self._plan.round - asked.round
        made, weight = admitted.contribution, 4 * self._fragment.schema.size
        norm = None  # nobody knows it of a delta that is masked
        if isinstance(admitted, Admitted):
            norm, weight = admitted.delta.norm(), admitted.payload_bytes
        seat, signed = self._state.seats[asked.node], reply.envelope
        row = row_of(asked.node, seat, made, norm, weight, measured, late)
        return {**row, "envelope": signed.data.decode(), "signature": signed.signature}

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
            case Recall(number, nodes):
                if number in self._plans:  # else the settings allow less lateness than they did
                    recalls = self._dispatch.recalls(self._plans[number], self._owners(nodes))
                    self._rim.courier.send(recalls)
            case Notify(nodes, what):
                roster = self._rim.home.roster().by_id()
                owners = {node: roster[node].member for node in nodes if node in roster}
                self._rim.courier.send(self._dispatch.notices(self._plan.round - 1, what, owners))
            case Aggregate(asked):
                if self._plan.sealed:
                    self._open_sealed(asked)
                else:
                    self._aggregate(asked)
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

        offers = self._dispatch.offers(self._plan, self._owners(nodes), self._state.baseless)
        self._rim.courier.send(map(note, offers))
        self._rim.tell("offered", {"round": self._plan.round, "nodes": sent})

    def _aggregate(self, asked: Sequence[Asked]) -> None:
        self._deltas.keep_only([str(one) for one in asked])
        rows = [self._state.counted[one] for one in asked]
        fresh = {one.node for one in asked if one.round == self._plan.round}
        moments = {node: self._moments[node] for node in fresh if node in self._moments}
        owners = self._owners(self._state.seats)
        told = {
            one.node: row["modality"]
            for one, row in zip(asked, rows, strict=True)
            if one.node in moments and one.round == self._plan.round
        }
        pooled = pool_modalities(moments, owners, told, self._modalities)
        self._merge(rows, pooled)
        self._rim.sealer.keep(self._plan.round, self._rim.journal, asked)

    def _open_sealed(self, asked: Sequence[Asked]) -> None:
        """Take the nodes of a sealed round to the sum of their deltas, or void the attempt.

        Who is off the roster meanwhile is not in it, nor is a node that the sum has no place for.
        """
        rim, roster = self._rim, self._rim.home.roster()
        seated = placed(rim.home.front().rounds, roster)
        nodes = {one.node: seated[one.node] for one in asked if one.node in seated}
        exchange = Exchange.of(rim.home, rim.courier, rim.clock, rim.sleep, rim.tell)
        nobody = Opened((), torch.zeros(0))
        reason = RefusalCode.DROPPED_OUT
        try:
            opened = exchange.run(self._plan, self._fragment.schema, nodes)
        except TooFew as error:
            return self._advance(Voided(rim.clock(), str(error)))
        except GarbledSumError as error:
            opened, reason = nobody, RefusalCode.GARBLED
            rim.tell("round_lost", {"round": self._plan.round, "reason": error.what})
        gone = {one.node for one in asked} - set(opened.survivors)
        unplaced = gone & {node.id for node in roster.contributors} - set(seated)
        for nodes_out, why in ((unplaced, RefusalCode.NO_PLACE), (gone - unplaced, reason)):
            if nodes_out:
                self._advance(Dropped(rim.clock(), tuple(sorted(nodes_out)), why))
        rows = [row for _, row in sorted(self._state.counted.items())]
        if rows:
            self._merge(rows, None, SealedMerger(opened.mean))
        else:
            self._settle(rim.sealer.merging.stay(self._standing, self._fragment))
        return self._advance(Aggregated())

    def _merge(
        self, rows: Sequence[Mapping[str, Any]], pooled: Pools | None, merger: Merges | None = None
    ) -> None:
        """What the contributions come to."""
        merging, deltas = self._rim.sealer.merging, self._deltas.by_group
        self._settle(
            merging.aggregate(self._standing, self._fragment, deltas, rows, pooled, merger)
        )

    def _settle(self, outcome: Outcome) -> None:
        """Remember of each node what became of its contributions."""
        last = self._state.terms.max_staleness
        pending = answerable(self._plan, range(1, self._plan.round + 1), last)
        records = settle(self._standing.records, self._plan, self._state, outcome.rows, pending)
        self._outcome = replace(outcome, standing=replace(outcome.standing, records=records))

    def _seal(self) -> None:
        if self._outcome is None:
            raise ValueError("a round is aggregated before it is sealed")
        seconds = self._rim.clock() - self._state.since
        standing = self._rim.sealer.seal(self._plan, self._state, self._outcome, seconds)
        self._outcome = replace(self._outcome, standing=standing)

"""Dispatch: what goes to each node beside a message, its base as cheaply as it can be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from gobelin.protocols.messages import Farewell, Notice, RoundPlan, Step
from gobelin.server.broadcast import STEP, rounds_to_send
from gobelin.server.courier import Enclosure, Parcel
from gobelin.server.envelopes import Envelopes
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.limits import Limit, limit_of
from gobelin.server.node_record import NodeRecord
from gobelin.server.seal import Standing
from gobelin.shared.checkpoint import read_extra
from gobelin.shared.codec import segments_of
from gobelin.shared.envelope import MICRO
from gobelin.shared.errors import CheckpointError
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.step import CodedStep


class Dispatch:
    """Packs parcels for nodes, from where the federation stands.

    `owners` are always the nodes that are sent something, and who owns each.
    """

    def __init__(
        self,
        home: AggregatorHome,
        standing: Standing,
        envelopes: Envelopes,
        ledger: RoundLedger,
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """`tell` takes an event for the log."""
        self._home = home
        self._envelopes = envelopes
        self._standing = standing
        self._ledger = ledger
        self._tell = tell
        self._sizes: dict[int, int] | None = None

    def offers(
        self, plan: RoundPlan, owners: Mapping[str, str], baseless: Container[str]
    ) -> Iterator[Parcel]:
        """The plan for each node; those that are `baseless` get the whole base.

        Nodes that are sent the same follow one another, so that one base or way is in memory.
        """
        alike: dict[tuple[int, ...] | None, list[str]] = defaultdict(list)
        for node in owners:
            alike[None if node in baseless else self._way(plan, node)].append(node)
        for way, group in alike.items():
            enclosure = self._enclose(way)
            for node in group:
                yield self._parcel(node, owners[node], plan, enclosure)

    def recalls(self, plan: RoundPlan, owners: Mapping[str, str]) -> Iterator[Parcel]:
        """A sealed round's plan for each node, alone: for what it has finished for it."""
        for node, member in owners.items():
            yield self._parcel(node, member, plan, None)

    def farewells(self, farewell: Farewell, owners: Mapping[str, str]) -> Iterator[Parcel]:
        """The farewell for each node, with its last receipts."""
        for node, member in owners.items():
            receipts = self._record(node).receipts
            envelope = self._envelopes.of_farewell(farewell, member, node, receipts)
            shown = self._ledger.show(node, receipts)
            yield Parcel(node, farewell, None, receipts, envelope, ledger=shown)

    def notices(self, last: int, what: str, owners: Mapping[str, str]) -> Iterator[Parcel]:
        """Something to tell each node's operator, after round `last` was sealed."""
        notice = Notice(self._envelopes.federation, last, what, self._envelopes.now() // MICRO)
        for node, member in owners.items():
            envelope = self._envelopes.of_notice(notice, member, node)
            yield Parcel(node, notice, None, (), envelope)

    def _parcel(
        self, node: str, member: str, plan: RoundPlan, enclosure: Enclosure | None
    ) -> Parcel:
        """A plan for one node, signed for it alone; with an offer, a view of the ledger."""
        receipts = self._record(node).receipts
        envelope = self._envelopes.of_plan(plan, member, node, receipts, alone=enclosure is None)
        shown = None if enclosure is None else self._ledger.show(node, receipts)
        return Parcel(node, plan, enclosure, receipts, envelope, self._limit(plan), shown)

    def _limit(self, plan: RoundPlan) -> Limit:
        """How large the answer may be, a member's part being no more than the whole fragment."""
        fragment = fragment_of_round(self._standing.base.schema, plan.fragments, plan.round)
        dim = self._home.recipe().projector.out if plan.cross_node else None
        return limit_of(fragment.schema, plan.codec, dim)

    def _enclose(self, way: tuple[int, ...] | None) -> Enclosure:
        """The steps of these rounds; the whole base for None, and where a step is damaged."""
        if way is not None:
            try:
                steps = tuple(self._step(number) for number in way)
                return Enclosure(None, steps, self._standing.moments)
            except CheckpointError as error:
                self._tell("damaged", error.facts())
        return Enclosure(self._standing.base, moments=self._standing.moments)

    def _record(self, node: str) -> NodeRecord:
        return self._standing.records.get(node, NodeRecord())

    def _way(self, plan: RoundPlan, node: str) -> tuple[int, ...] | None:
        """The rounds whose steps a node is sent, or None for the whole base."""
        whole = 4 * self._standing.base.schema.size
        if self._sizes is None:
            self._sizes = self._steps_kept(plan.round - 1, whole)
        way = rounds_to_send(self._record(node).base, plan.round - 1, self._sizes, whole)
        return None if way is None else tuple(way)

    def _steps_kept(self, last: int, whole: int) -> dict[int, int]:
        """Bytes of the last sealed rounds' steps, back to where they are more than a base."""
        sizes: dict[int, int] = {}
        for number in range(last, 0, -1):
            if not self._home.round_folder(number).exists():  # before this aggregator took over
                break
            told = self._home.facts(number).get(STEP)
            if told is None or sum(sizes.values()) >= whole:
                break
            sizes[number] = int(told["bytes"])
        return sizes

    def _step(self, number: int) -> CodedStep:
        """A sealed round's step; raises CheckpointError when it is damaged."""
        facts, folder = self._home.facts(number), self._home.round_folder(number)
        header = Step(number, facts["base_digest"], facts[STEP]["codec"])
        return CodedStep(header, segments_of(read_extra(folder, STEP)))

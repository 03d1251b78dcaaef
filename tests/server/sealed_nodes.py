"""Nodes that take part in sealed rounds, in virtual time, and fail where a test wants them to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import RoundPlan
from gobelin.protocols.sealing import ENCODING_MASKED, MASK, MASKED, SealedCall
from gobelin.server.courier import Parcel, Reply
from gobelin.shared.errors import SealingError
from gobelin.shared.sealing import Mask, Peer, PeerState, Ring, add_masks, masked_digest
from gobelin.shared.sealing.ring import Words
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.answers import contribution, wired
from tests.keys import signing_key
from tests.server.world import Federation, Node, World

RULES = {"sealed": True, "max_staleness": 0, "min_members": 3, "sealed_threshold": 0.5}
POLICY = {"collapse_gate": False}


class SealedNode(Node):
    """A node that masks what it learns; `dies_at` (round, phase) it is gone, and stays so."""

    def __init__(self, name: str, member: str = "") -> None:
        super().__init__(name, member, lambda plan, base: [(0.5, self.announce(plan, base))])
        self.dies_at: tuple[int, str] | None = None
        self.away_at: tuple[int, str] | None = None  # it is gone then, and back after a while
        self.fails_at: tuple[int, str] | None = None  # it answers by an error
        self.bursts_in: set[int] = set()  # rounds in which it leaves its range
        self.heard: list[tuple[int, int, str]] = []  # round, session, phase
        self.sent: list[Words] = []  # masked, as they left
        self._state = PeerState()
        self._words: Words = np.zeros(0, np.uint32)
        self._schema: ParameterSchema | None = None

    def held(self, plan: RoundPlan, base: ParameterVector) -> ParameterVector:
        """What this node learns in a round, on the round's grid."""
        ring = Ring(plan.sealed_bits, plan.sealed_bound)
        return ParameterVector(base.schema, ring.round(self.delta(plan.round, base).values))

    def announce(self, plan: RoundPlan, base: ParameterVector, **changes: Any) -> Reply:
        held = self.held(plan, base)
        ring = Ring(plan.sealed_bits, plan.sealed_bound)
        excess = np.uint32(1 << 30 if plan.round in self.bursts_in else 0)
        self._words = ring.words(held.values) + excess
        self._schema = base.schema
        salted = hashlib.sha256(b"salt" + held.digest.encode()).hexdigest()
        said = {"delta_digest": salted, "samples": 16, "sealed": True, **changes}
        header = contribution(plan, **said)
        return Reply(self.id, header.to_bytes(), {}, envelope=self.sign(header))

    def hear(self, call: SealedCall, aggregator: str) -> Reply:
        """Answer a call, as after a restart."""
        peer = Peer(self.id, signing_key(self.number), aggregator, minimum=2)
        state = PeerState.from_bytes(self._state.to_bytes())
        self._state = peer.answer(state, call, self._masked)
        arrays: dict[str, WireArray] = {}
        if call.phase == MASK:
            assert self._schema is not None
            for name, (start, end) in self._schema.segments.items():
                data = self.sent[-1][start:end].tobytes()
                arrays[name] = WireArray(MASKED, (end - start,), ENCODING_MASKED, data)
        return Reply(self.id, self._state.answers[call.phase].encode(), arrays, plan=call.digest)

    def _masked(self, masks: Iterable[Mask]) -> str:
        words = self._words.copy()
        add_masks(words, masks)
        self.sent.append(words)
        return masked_digest([words.tobytes()])


class SealedWorld(World):
    """A courier that carries the calls of sealed rounds, too."""

    aggregator = ""  # public key

    def send(self, parcels: Iterable[Parcel]) -> None:
        for parcel in list(parcels):
            if isinstance(parcel.message, SealedCall):
                self.call(parcel.node, parcel.message)
            else:
                super().send([parcel])

    def call(self, node_id: str, call: SealedCall) -> None:
        node = self.all[node_id]
        assert isinstance(node, SealedNode)
        session = session_of(call)
        at = (session.round, call.phase)
        if at in (node.dies_at, node.away_at):
            node.online = False
            if at == node.away_at:
                node.away_at = None
                self.happenings.append((self.now + 100, lambda: come_back(node)))
            return None
        node.heard.append((session.round, session.session, call.phase))
        if at == node.fails_at:
            error = Reply(node_id, error="gobelin:peers", plan=call.digest)
            return self.arrive(0.3, error)
        try:
            self.arrive(0.3, node.hear(call, self.aggregator))
        except SealingError as error:
            self.arrive(0.3, Reply(node_id, error=f"gobelin:{error.code}", plan=call.digest))


def come_back(node: Node) -> None:
    node.online, node.activated_at = True, f"{node.activated_at}, again"


def session_of(call: SealedCall) -> Any:
    from gobelin.protocols.sealing import SealedSession

    return SealedSession.from_bytes(call.session.encode())


def sealed_federation(folder: Path, nodes: list[SealedNode], **rounds: Any) -> Federation:
    world = SealedWorld(*nodes)
    parts = {"policy": POLICY, **RULES, **rounds}
    fed = Federation(folder / "home", world, nodes, **parts)
    world.aggregator = SigningKey.load(fed.home.signing_key_file).public
    return fed


def open_twin(fed: Federation, folder: Path, names: dict[int, set[str]]) -> str:
    """Digest of an open federation's consensus from the same deltas on the same grid.

    `names` says whose count, by round.
    """
    facts = fed.sealed(1).facts
    plan = RoundPlan.from_bytes(facts["plan"].encode())
    ring = Ring(plan.sealed_bits, plan.sealed_bound)
    twins = []
    for node in fed.world.all.values():
        assert isinstance(node, SealedNode)
        twins.append(twin(node, ring, names))
    rounds = {"rounds": fed.home.settings().rounds.rounds, "policy": POLICY, "quorum": 0.4}
    outer = fed.home.settings().outer.model_dump(exclude_none=True)
    other = Federation(folder / "twin", World(*twins), twins, outer=outer, deadline_s=5.0, **rounds)
    other.run()
    for number, counted in names.items():
        assert set(other.counted(number)) == counted
    return other.digest()


def twin(node: SealedNode, ring: Ring, names: dict[int, set[str]]) -> Node:
    def answer(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if node.name not in names[plan.round]:
            return []
        held = ParameterVector(base.schema, ring.round(node.delta(plan.round, base).values))
        header = contribution(plan, held.digest, samples=16)
        arrays, envelope = wired(held.segments()), same.sign(header)
        return [(0.5, Reply(same.id, header.to_bytes(), arrays, envelope=envelope))]

    same = Node(node.name, answer=answer)
    return same

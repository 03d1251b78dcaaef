"""Nodes in a sealed round, in memory: an honest aggregator's calls, and who drops out when."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from gobelin.protocols.sealing import (
    AGREE,
    KEYS,
    MASK,
    PHASES,
    REVEAL,
    SHARES,
    SealedAnswer,
    SealedCall,
    SealedSession,
)
from gobelin.shared.errors import SealingError
from gobelin.shared.sealing import Peer, PeerState, add_masks, unmasking
from gobelin.shared.sealing.peer import SESSION
from gobelin.shared.sealing.ring import Words
from gobelin.shared.sealing.secrets import Secrets
from gobelin.shared.sealing.tally import parse_answer
from gobelin.shared.signing import SigningKey

AGGREGATOR = SigningKey.generate()


@dataclass
class Actor:
    """A node with its state, and what it would contribute."""

    peer: Peer
    words: Words
    state: PeerState = field(default_factory=PeerState)
    sent: list[Words] = field(default_factory=list)  # masked, as they left

    def hear(self, call: SealedCall) -> str:
        """Answer a call, as after a restart: from bytes."""
        state = PeerState.from_bytes(self.state.to_bytes())
        self.state = self.peer.answer(state, call, self._masked)
        return self.state.answers[call.phase]

    def _masked(self, masks: object) -> str:
        words = self.words.copy()
        add_masks(words, masks)  # type: ignore[arg-type]
        self.sent.append(words)
        return "00" * 32


@dataclass
class Circle:
    """Nodes and one session of theirs."""

    session: SealedSession
    actors: dict[str, Actor]
    secrets: dict[str, Secrets] = field(default_factory=dict)  # as they were before any reveal
    told: dict[str, dict[str, str]] = field(default_factory=dict)  # answers, by phase

    def adverts(self) -> dict[str, SealedAnswer]:
        """What nodes have answered to KEYS."""
        return {n: parse_answer(self.session, KEYS, n, t) for n, t in self.told[KEYS].items()}

    def call(self, phase: str, told: Mapping[str, str] | None = None) -> SealedCall:
        text = self.session.to_bytes().decode()
        return SealedCall(text, phase, AGGREGATOR.sign(SESSION, text.encode()), told or {})

    def run(self, dropouts: Mapping[str, Collection[str]]) -> tuple[list[str], Words]:
        """Survivors and the sum of their words; `dropouts` are silent from a phase on."""
        here = sorted(self.actors)

        def left(phase: str, nodes: Collection[str]) -> list[str]:
            gone = {n for at in PHASES[: PHASES.index(phase) + 1] for n in dropouts.get(at, ())}
            return [node for node in nodes if node not in gone]

        keys = {n: self.actors[n].hear(self.call(KEYS)) for n in left(KEYS, here)}
        shares = {n: self.actors[n].hear(self.call(SHARES, keys)) for n in left(SHARES, keys)}
        sealed = {n: parse_answer(self.session, SHARES, n, text) for n, text in shares.items()}
        for node in left(MASK, shares):
            self.actors[node].hear(self.call(MASK, for_node(sealed, node)))
        masked = left(MASK, shares)
        alive = dict.fromkeys(masked, "")
        signed = {n: self.actors[n].hear(self.call(AGREE, alive)) for n in left(AGREE, masked)}
        revealed = {n: self.actors[n].hear(self.call(REVEAL, signed)) for n in left(REVEAL, signed)}
        if not masked:
            raise SealingError("nobody is left")
        total = sum_of([self.actors[node].sent[-1] for node in masked])
        adverts = {n: parse_answer(self.session, KEYS, n, text) for n, text in keys.items()}
        told = {n: parse_answer(self.session, REVEAL, n, text) for n, text in revealed.items()}
        add_masks(total, unmasking(self.session, adverts, shares, masked, told))
        return masked, total


def for_node(sealed: Mapping[str, SealedAnswer], node: str) -> dict[str, str]:
    """The shares that are sealed for one node."""
    return {other: answer.told.get(node, "") for other, answer in sealed.items()}


def sum_of(vectors: list[Words]) -> Words:
    return np.sum(np.stack(vectors), axis=0, dtype=np.uint32)


def circle(
    count: int, threshold: int, words: Mapping[int, Words], minimum: int = 2, **changes: object
) -> Circle:
    keys = [SigningKey.generate() for _ in range(count)]
    nodes = [f"{at:064x}" for at in range(count)]
    values: dict[str, object] = {
        "federation": "fed",
        "round": 3,
        "session": 1,
        "plan_digest": "ab" * 32,
        "base_digest": "cd" * 32,
        "threshold": threshold,
        "keys": {node: key.public for node, key in zip(nodes, keys, strict=True)},
        "members": {node: f"member {at}" for at, node in enumerate(nodes)},
        **changes,
    }
    actors = {
        node: Actor(Peer(node, key, AGGREGATOR.public, minimum), words[at])
        for at, (node, key) in enumerate(zip(nodes, keys, strict=True))
    }
    return Circle(SealedSession(**values), actors)  # type: ignore[arg-type]

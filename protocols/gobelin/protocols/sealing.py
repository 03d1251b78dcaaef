"""The messages of a sealed round: what the aggregator asks of its nodes, phase by phase.

A session is one attempt to add up masked deltas. Everything said in it, every key and every
signature is bound to the digest of its `SealedSession`, and so to the federation, the round, the
plan, the base and the nodes that take part (Bonawitz et al., CCS'17, with signed keys and agreed
survivors, for an aggregator that may cheat).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gobelin.protocols.messages import Message

SEALED = "query.sealed"  # type of a call, as Flower carries it
MASKED = "uint32"  # dtype of masked segments
ENCODING_MASKED = "gobelin.ring32"  # of their bytes: little-endian integers modulo 2³²

KEYS = "keys"  # make keys for this session, and say the public ones
SHARES = "shares"  # share your secrets among the others
MASK = "mask"  # take the others' shares, and send the masked delta
AGREE = "agree"  # sign whose masked deltas have arrived
REVEAL = "reveal"  # reveal shares, of either one or the other secret of each node
PHASES = (KEYS, SHARES, MASK, AGREE, REVEAL)


@dataclass(frozen=True)
class SealedSession(Message):
    """What every key of one attempt is bound to."""

    federation: str
    round: int
    session: int  # grows from attempt to attempt
    plan_digest: str
    base_digest: str
    threshold: int  # shares that give a secret back, and fewest nodes in the sum
    keys: Mapping[str, str]  # of each node, by id: the public key it signs with, as hex
    members: Mapping[str, str]  # of each node, by id: who owns it


@dataclass(frozen=True)
class SealedCall(Message):
    """What the aggregator asks of one node in one phase.

    `told`, by node id, is in SHARES the others' answers to KEYS, in MASK the shares sealed for
    this node, in AGREE the survivors, in REVEAL their answers to AGREE.
    """

    session: str  # canonical bytes of a SealedSession, as text
    phase: str
    signature: str  # the aggregator's, over the session
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SealedAnswer(Message):
    """What a node answers: `told` are in KEYS its public keys, in SHARES and REVEAL shares by node.

    In MASK it names the digest of the masked segments that travel beside it, in AGREE that of the
    survivors.
    """

    session: str  # digest
    phase: str
    node: str
    told: Mapping[str, str]
    signature: str = ""  # the node's, over the answer without it

    @property
    def statement(self) -> bytes:
        """What is signed."""
        return replace(self, signature="").to_bytes()

"""The messages of the round ledger: its entries, and what of it travels to nodes and back.

The ledger is an append-only Merkle tree (RFC 9162 §2.1) with one leaf a sealed round, the founding
model being that of round 0. A leaf is the canonical bytes of a `RoundRecord`; what became of each
answer is a `ContributionRecord`, bound to it by a tree of its own, so that a receipt needs one of
them and not all. Hashes are hex, and several are written behind one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.messages import MalformedMessageError, Message, later

LEDGER = "ledger"  # name of the record that carries what the aggregator shows of its ledger
HEAD = "head"  # keys of what is inside it
BASE_PROOF = "base"
CONSISTENCY = "consistency"
PROOFS = "proofs"
COSIGNATURE = "cosignature"  # name of the record that carries a node's cosignature


@dataclass(frozen=True)
class RoundRecord(Message):
    """What a round came to: a leaf of the ledger."""

    federation: str
    round: int  # which is the leaf's index, too
    plan_digest: str
    base_digest: str  # before
    vector_digest: str  # after: the consensus
    aggregate_digest: str  # of the merged delta; "" in rounds sealed before there was a ledger
    roster_digest: str  # of the roster when it was sealed; "" as above
    settings_digest: str  # of policy, rule and outer optimizer, as recorded
    manifest_digest: str  # of everything else recorded, and of every file of the checkpoint
    contributions: int  # how many ContributionRecords there are
    contributions_root: str  # of the tree of them
    restores: int = later(0, 0)  # of a rollback: the round that it goes back to
    why: str = later("", "")  # and why; "" of a round that is none


@dataclass(frozen=True)
class ContributionRecord(Message):
    """What became of a node's answer in a sealed round, and what it weighed."""

    round: int  # that was sealed
    asked: int  # whose plan was answered
    member: str
    node: str
    id: str  # fingerprint of the node's key
    delta_digest: str  # "" unless counted
    moments_digest: str
    counted: bool
    reason: str  # why not, as a code; "" when counted
    weight: float  # in the consensus
    influence: float  # of its member in the round, a share of how far the model moved
    reduced: str  # codes of why its member counted for less than by itself, by commas


@dataclass(frozen=True)
class Head(Message):
    """The ledger's first `size` leaves in one hash, signed by the aggregator.

    The signature is over the text of a C2SP checkpoint, which these fields give.
    """

    federation: str
    size: int
    root: str
    signature: str


@dataclass(frozen=True)
class Consistency(Message):
    """That the tree of a head goes on from its first `size` leaves (RFC 9162 §2.1.4)."""

    size: int
    path: str


@dataclass(frozen=True)
class Proof(Message):
    """That a round's record is in the tree of a head (RFC 9162 §2.1.3), and a row in the record."""

    record: str  # canonical bytes of a RoundRecord
    path: str
    row: str  # canonical bytes of a ContributionRecord, or ""
    row_index: int
    row_path: str


@dataclass(frozen=True)
class Cosignature(Message):
    """A node's word that it knows no other history (C2SP tlog-cosignature v1)."""

    federation: str
    size: int
    root: str
    time: int  # seconds since 1970
    signature: str


@dataclass(frozen=True)
class LedgerView:
    """What a node is shown of the ledger with an offer or the farewell."""

    head: Head
    base: Proof  # of the round that has left the base: with the farewell, the last
    consistency: tuple[Consistency, ...] = ()  # from every size the node may know
    proofs: tuple[Proof, ...] = ()  # of the rows that its receipts tell as counted

    def to_records(self) -> dict[str, bytes | list[bytes]]:
        """As bytes by key, for the wire."""
        return {
            HEAD: self.head.to_bytes(),
            BASE_PROOF: self.base.to_bytes(),
            CONSISTENCY: [proof.to_bytes() for proof in self.consistency],
            PROOFS: [proof.to_bytes() for proof in self.proofs],
        }

    @classmethod
    def from_records(cls, records: Mapping[str, Any]) -> LedgerView:
        """What `to_records` gave; raises MalformedMessageError on anything else."""
        try:
            return cls(
                Head.from_bytes(records[HEAD]),
                Proof.from_bytes(records[BASE_PROOF]),
                tuple(map(Consistency.from_bytes, records[CONSISTENCY])),
                tuple(map(Proof.from_bytes, records[PROOFS])),
            )
        except (KeyError, TypeError):
            raise MalformedMessageError("nothing is shown of the ledger") from None


@dataclass(frozen=True)
class ReleaseStatement(Message):
    """The aggregator's word on a release, which it signs with the key its members pin."""

    federation: str
    round: int  # whose consensus it is
    vector_digest: str
    issued: int  # seconds since 1970
    expires: int  # afterwards it is no longer to be taken for the newest
    key: str  # PEM of the EC key that the release's bundle is signed by

"""What nodes and aggregators sign about belonging to a federation.

Messages like those of a round: frozen, with one canonical byte form. Who signs which, for which
purpose, stands beside each. Keys are PEM (EC) or 64 hex digits (Ed25519), digests SHA-256 in hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from gobelin.protocols.messages import Message, Receipt, later
from gobelin.protocols.version import FIRST, PROTOCOL

PURPOSE_ENROLMENT = "enrolment"
PURPOSE_RECORD = "roster record"
PURPOSE_DEPARTURE = "departure"
PURPOSE_EXIT = "exit"

ADMIT, REVOKE, LEAVE, ROLE = "admit", "revoke", "leave", "role"  # changes of a roster
CONTRIBUTOR, OBSERVER = "contributor", "observer"  # roles


@dataclass(frozen=True)
class Enrolment(Message):
    """A node's request to be admitted, signed by the Ed25519 key it names.

    The certificate signing request proves possession of the EC key (RFC 2986) and names the other
    key, the signature over the whole proves possession of that one: so both belong together.
    """

    federation_digest: str
    invite: str  # its id
    member: str
    node: str
    csr: str  # PEM, PKCS #10
    signing_key: str
    at_ms: int  # the node's clock, Unix milliseconds
    protocol: int = later(PROTOCOL, FIRST)  # see version.py


@dataclass(frozen=True)
class RosterRecord(Message):
    """One change of the roster, signed by the aggregator; the log is a chain of these."""

    index: int  # from 0
    previous: str  # digest of the record before; of the first the federation digest
    change: str  # admit, revoke, leave, role
    member: str
    node: str
    public_key: str
    signing_key: str
    role: str  # after the change
    reason: str
    at: int  # Unix seconds


@dataclass(frozen=True)
class Departure(Message):
    """A node's wish to leave, signed by it."""

    federation_digest: str
    node: str  # fingerprint of its EC key
    at_ms: int


@dataclass(frozen=True)
class Exit(Message):
    """What the aggregator confirms to a node that has left, signed by it."""

    federation: str
    federation_digest: str
    member: str
    node: str
    node_id: str  # fingerprint of its EC key
    record_digest: str  # of the roster record of its leaving
    receipts: int  # how many
    receipts_digest: str  # over their digests, in order of rounds
    round: int  # the last sealed one when it left
    consensus_digest: str  # of that round's vector


def digest_of_receipts(receipts: Iterable[Receipt]) -> str:
    """SHA-256 over the digests of receipts, in order."""
    return hashlib.sha256("".join(receipt.digest for receipt in receipts).encode()).hexdigest()

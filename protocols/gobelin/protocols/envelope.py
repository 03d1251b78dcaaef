"""The envelope: what a sender signs of a message, so that it counts here, once and now only.

It names whom a message is between, what it is about and how long it holds, and binds the message
by digest; the message's own digests bind the tensors. Whose it is the direction says: plans,
recalls, notices and farewells are the aggregator's, contributions are a node's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gobelin.protocols.messages import Message

ENVELOPE = "envelope"  # name of the record that carries one; its bytes lie under PAYLOAD
SIGNATURE = "signature"  # key of the signature inside ENVELOPE
PLAN = "plan"  # purposes of signatures
RECALLED = "recall"
FAREWELL = "farewell"
NOTICE = "notice"
CONTRIBUTION = "contribution"


@dataclass(frozen=True)
class Envelope(Message):
    """What is signed."""

    federation: str
    round: int
    base_digest: str
    member: str  # who owns the node
    node: str  # fingerprint of its key: the recipient of a plan, the sender of a contribution
    nonce: str  # 32 hex digits; no two statements are the same
    payload_digest: str  # of the message
    receipts_digest: str  # of the receipts beside it; "" where there are none
    issued: int  # Unix time in microseconds, by the sender's clock
    expires: int  # Unix time in microseconds, by the aggregator's clock


class SignedEnvelope(NamedTuple):
    """An envelope as it travels, nothing believed yet."""

    data: bytes  # canonical
    signature: str  # hex

    @property
    def digest(self) -> str:
        """SHA-256 of what is signed."""
        return hashlib.sha256(self.data).hexdigest()


UNSIGNED = SignedEnvelope(b"", "")


def digest_of_receipts(receipts: Iterable[bytes]) -> str:
    """One digest of the canonical bytes of receipts in order; "" where there are none."""
    told = [hashlib.sha256(receipt).digest() for receipt in receipts]
    return hashlib.sha256(b"".join(told)).hexdigest() if told else ""

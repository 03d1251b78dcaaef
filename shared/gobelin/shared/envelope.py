"""Signing messages and opening what came signed: `protocols/envelope`, with keys and clocks."""

from __future__ import annotations

import secrets

from gobelin.protocols.envelope import Envelope, SignedEnvelope
from gobelin.protocols.messages import (
    Contribution,
    Farewell,
    MalformedMessageError,
    Notice,
    RoundPlan,
)
from gobelin.shared.errors import (
    OTHER_VERSION,
    EnvelopeAddressError,
    EnvelopeError,
    EnvelopeExpiredError,
    EnvelopePayloadError,
    EnvelopeSignatureError,
    SignatureError,
)
from gobelin.shared.signing import SigningKey, verify

MICRO = 10**6  # a second
SKEW = 300 * MICRO  # how far the clock of an aggregator may be ahead of a node's
NEVER = 1 << 62


def seal(
    key: SigningKey,
    purpose: str,
    message: RoundPlan | Contribution | Farewell | Notice,
    *,
    member: str,
    node: str,
    issued: int,
    expires: int,
    receipts_digest: str = "",
) -> SignedEnvelope:
    """A fresh envelope of `message`, signed for `purpose`."""
    number, base = subject(message)
    envelope = Envelope(
        federation=message.federation,
        round=number,
        base_digest=base,
        member=member,
        node=node,
        nonce=secrets.token_hex(16),
        payload_digest=message.digest,
        receipts_digest=receipts_digest,
        issued=issued,
        expires=expires,
    )
    data = envelope.to_bytes()
    return SignedEnvelope(data, key.sign(purpose, data))


def open_envelope(
    signed: SignedEnvelope,
    public: str,
    purpose: str,
    message: RoundPlan | Contribution | Farewell | Notice,
    *,
    member: str,
    node: str,
    receipts_digest: str = "",
) -> Envelope:
    """The envelope, known to be signed by `public` for `purpose`, of this very message.

    Raises EnvelopeError when it is none, or one of its kinds: another signer, another member or
    node, another message. Its time is for the caller to judge (`require_time`).
    """
    try:
        envelope = Envelope.from_bytes(signed.data)
    except MalformedMessageError as error:
        raise EnvelopeError(f"the {purpose} has no envelope: {error}", OTHER_VERSION) from None
    if envelope.node != node or envelope.member != member:
        found = f"member {envelope.member!r:.50}, node {envelope.node[:12]!r}"
        raise EnvelopeAddressError(
            f"the {purpose} is of {found}, not of member {member!r}, node {node[:12]!r}",
            "the aggregator's operator admits a node under the member it says in node.toml",
        )
    try:
        verify(public, purpose, signed.data, signed.signature)
    except SignatureError:
        raise EnvelopeSignatureError(
            f"the {purpose} is not signed by the key {public[:16]}…",
            "whoever sent it is not who it says; tell the federation's operator",
        ) from None
    number, base = subject(message)
    stated = (message.federation, number, base, message.digest, receipts_digest)
    signs = (
        *(envelope.federation, envelope.round, envelope.base_digest),
        *(envelope.payload_digest, envelope.receipts_digest),
    )
    if stated != signs:
        raise EnvelopePayloadError(f"the {purpose}'s envelope is of another message")
    return envelope


def require_time(envelope: Envelope, now: int, *, ahead: int = NEVER) -> None:
    """Raise EnvelopeExpiredError when an envelope has expired, or was issued too far ahead.

    `now` and `ahead`, how much later than now it may say it was issued, are microseconds.
    """
    if now >= envelope.expires:
        late = (now - envelope.expires) / MICRO
        raise EnvelopeExpiredError(
            f"what was signed for round {envelope.round} expired {late:.0f} s ago",
            "if that cannot be, set this machine's clock",
        )
    if envelope.issued > now + ahead:
        skew = (envelope.issued - now) / MICRO
        raise EnvelopeExpiredError(
            f"what was signed for round {envelope.round} is dated {skew:.0f} s ahead of this clock",
            "set this machine's clock, or have the sender's set",
        )


def subject(message: RoundPlan | Contribution | Farewell | Notice) -> tuple[int, str]:
    """The round a message is about, and the base: of a farewell the last of each."""
    if isinstance(message, Farewell):
        return message.rounds, message.vector_digest
    if isinstance(message, Notice):
        return message.round, ""
    return message.round, message.base_digest

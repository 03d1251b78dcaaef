"""Provenance: whose contribution a reply is, before anything is made of what it says."""

from __future__ import annotations

from gobelin.protocols.envelope import CONTRIBUTION, SignedEnvelope
from gobelin.protocols.messages import Contribution, MalformedMessageError
from gobelin.server.reasons import Refusal, RefusalCode
from gobelin.server.round_events import Seat
from gobelin.shared.envelope import open_envelope, require_time
from gobelin.shared.errors import EnvelopeError


def trace(
    node: str, seat: Seat, header: bytes, signed: SignedEnvelope, now: int | None
) -> Refusal | None:
    """Why a reply does not count as the contribution of `node`, by signature alone; or None.

    `seat` says who owns the node and the key it signs with, `now` is Unix time in microseconds,
    or None for what has been counted before and is read again.
    """
    try:
        contribution = Contribution.from_bytes(header)
    except MalformedMessageError as error:
        return Refusal(RefusalCode.MALFORMED, str(error))
    try:
        envelope = open_envelope(
            signed, seat.key, CONTRIBUTION, contribution, member=seat.member, node=node
        )
        if now is not None:
            require_time(envelope, now)
    except EnvelopeError as error:
        return Refusal(RefusalCode(error.code), error.what)
    return None

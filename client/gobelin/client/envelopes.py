"""A node's envelopes: it opens the aggregator's before it does anything, and seals its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gobelin.client.home import NodeHome
from gobelin.protocols.envelope import (
    CONTRIBUTION,
    FAREWELL,
    NOTICE,
    PLAN,
    RECALLED,
    Envelope,
    SignedEnvelope,
    digest_of_receipts,
)
from gobelin.protocols.messages import (
    Contribution,
    Farewell,
    MalformedMessageError,
    Notice,
    Receipt,
    RoundPlan,
)
from gobelin.shared.envelope import MICRO, SKEW, open_envelope, require_time, seal
from gobelin.shared.errors import EnvelopeReplayedError
from gobelin.shared.files import write_atomic
from gobelin.shared.signing import SigningKey

LAST = "last_plan_issued"  # remembered in the home


class Envelopes:
    """Of one node home; the aggregator's key is the one pinned in ca.pem."""

    def __init__(self, home: NodeHome, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time in seconds."""
        self._home = home
        self._key = SigningKey.load(home.signing_key_file)
        self._aggregator = home.aggregator_key()
        self._member = home.settings().member
        self._node = home.id
        self._wall = wall

    def open_plan(
        self, plan: RoundPlan, signed: SignedEnvelope, receipts: Sequence[Receipt]
    ) -> Envelope:
        """The envelope of an offered plan; raises EnvelopeError on one that does not hold."""
        envelope = self._open(PLAN, plan, signed, receipts)
        require_time(envelope, self._now(), ahead=SKEW)
        write_atomic(self._home.plan_file, plan.to_bytes())
        return envelope

    def open_recall(
        self, plan: RoundPlan, signed: SignedEnvelope, receipts: Sequence[Receipt]
    ) -> Envelope:
        """The envelope of a plan that came alone; raises EnvelopeError."""
        envelope = self._open(RECALLED, plan, signed, receipts)
        require_time(envelope, self._now(), ahead=SKEW)
        return envelope

    def open_farewell(
        self, farewell: Farewell, signed: SignedEnvelope, receipts: Sequence[Receipt]
    ) -> Envelope:
        """The envelope of a farewell, which holds for ever; raises EnvelopeError."""
        return self._open(FAREWELL, farewell, signed, receipts)

    def open_notice(self, notice: Notice, signed: SignedEnvelope) -> Envelope:
        """The envelope of a notice; raises EnvelopeError."""
        envelope = self._open(NOTICE, notice, signed, ())
        require_time(envelope, self._now(), ahead=SKEW)
        return envelope

    def begin(self, envelope: Envelope) -> None:
        """Remember that work on a plan begins; raises EnvelopeReplayedError on an overtaken one.

        A round may come again with a fresh envelope, for an aggregator may go back to an earlier
        base; what was issued before the last plan this node has worked on is a replay.
        """
        last = int(self._home.pinned(LAST) or 0)
        if envelope.issued < last:
            before = (last - envelope.issued) / MICRO
            raise EnvelopeReplayedError(
                f"the plan of round {envelope.round} was issued {before:.0f} s before the last one",
                "somebody sends old plans again, or the aggregator's clock was set back",
            )
        if envelope.issued > last:
            self._home.remember(LAST, envelope.issued)

    def seal(self, contribution: Contribution, expires: int) -> SignedEnvelope:
        """A fresh envelope of this node's contribution, which holds as long as the plan's."""
        return seal(
            self._key,
            CONTRIBUTION,
            contribution,
            member=self._member,
            node=self._node,
            issued=self._now(),
            expires=expires,
        )

    def _open(
        self,
        purpose: str,
        message: RoundPlan | Farewell | Notice,
        signed: SignedEnvelope,
        receipts: Sequence[Receipt],
    ) -> Envelope:
        told = digest_of_receipts(receipt.to_bytes() for receipt in receipts)
        return open_envelope(
            signed,
            self._aggregator,
            purpose,
            message,
            member=self._member,
            node=self._node,
            receipts_digest=told,
        )

    def _now(self) -> int:
        return int(self._wall() * MICRO)


def holds(signed: SignedEnvelope, at: int) -> bool:
    """Whether what was spooled has an envelope that holds at a time."""
    try:
        return Envelope.from_bytes(signed.data).expires > at
    except MalformedMessageError:
        return False

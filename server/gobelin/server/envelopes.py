"""The aggregator's envelopes: it seals what goes to a node, and opens what comes from one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gobelin.protocols.envelope import (
    FAREWELL,
    NOTICE,
    PLAN,
    RECALLED,
    SignedEnvelope,
    digest_of_receipts,
)
from gobelin.protocols.messages import Farewell, Notice, Receipt, RoundPlan
from gobelin.server.home import AggregatorHome, RoundSettings
from gobelin.shared.envelope import MICRO, NEVER, SKEW, seal
from gobelin.shared.errors import ClockError
from gobelin.shared.files import find_json, write_json
from gobelin.shared.invite import describe_seconds


class Envelopes:
    """Of one federation."""

    def __init__(self, home: AggregatorHome, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time in seconds."""
        settings = home.settings()
        self.federation = settings.name
        self._key = home.signing_key()
        self._lifetime = int(lifetime_s(settings.rounds) * MICRO)
        self._wall = wall
        self._file = home.issued_file
        known = find_json(self._file) or {}
        self._last = self._kept = int(known.get("issued", 0))

    def now(self) -> int:
        """Unix time in microseconds."""
        return int(self._wall() * MICRO)

    def of_plan(
        self, plan: RoundPlan, member: str, node: str, receipts: Sequence[Receipt], alone: bool
    ) -> SignedEnvelope:
        """Of a plan for a node; `alone` it is a recall."""
        purpose, now = RECALLED if alone else PLAN, self.now()
        return self._seal(purpose, plan, member, node, receipts, now + self._lifetime)

    def of_notice(self, notice: Notice, member: str, node: str) -> SignedEnvelope:
        """Of a notice for a node."""
        return self._seal(NOTICE, notice, member, node, (), self.now() + self._lifetime)

    def of_farewell(
        self, farewell: Farewell, member: str, node: str, receipts: Sequence[Receipt]
    ) -> SignedEnvelope:
        """Of the farewell to a node; what has ended stays so."""
        return self._seal(FAREWELL, farewell, member, node, receipts, NEVER)

    def _seal(
        self,
        purpose: str,
        message: RoundPlan | Farewell | Notice,
        member: str,
        node: str,
        receipts: Sequence[Receipt],
        expires: int,
    ) -> SignedEnvelope:
        return seal(
            self._key,
            purpose,
            message,
            member=member,
            node=node,
            issued=self._issue(),
            expires=expires,
            receipts_digest=digest_of_receipts(receipt.to_bytes() for receipt in receipts),
        )

    def _issue(self) -> int:
        """Now, and later than all before: nodes refuse what was issued earlier as a replay.

        A clock that was set back by a little is waited out; raises ClockError where nodes would
        refuse what is dated ahead of it.
        """
        now = self.now()
        if now < self._last - SKEW:
            back = describe_seconds((self._last - now) / MICRO)
            raise ClockError(
                f"this machine's clock is {back} behind the last plan this aggregator has issued: "
                "it was set back, and nodes would refuse new plans as replays",
                "set the clock (NTP), then run `gobelin aggregator up` again",
            )
        self._last = max(now, self._last + 1)
        if self._last > self._kept + MICRO:
            self._kept = self._last
            write_json(self._file, {"issued": self._last})
        return self._last


def lifetime_s(rounds: RoundSettings) -> float:
    """The longest that a plan may be answered: its round's, and those it may be late for."""
    of_one = rounds.wait_for_members_s + rounds.attempts * rounds.deadline_s
    return (1 + rounds.max_staleness) * of_one

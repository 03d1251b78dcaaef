"""Egress: the one choke point through which all that leaves this node goes.

`clear` looks at what the node has made: typed, finite, of the size its header says, and nothing in
it that the site policy keeps here. `Egress` then stands at the connection: every request passes
`request`, an upload only as part of a departure that was cleared and is on the ledger already. It
waits for the policy's hours and day, and holds its rate.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from gobelin.client.egress_ledger import CONTRIBUTION, Departure, EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.privacy.budget import Spent
from gobelin.client.site_policy import (
    DAY_S,
    TRAINING,
    SitePolicy,
    allows,
    day_bytes,
    read_policy,
)
from gobelin.client.spool import Spool, Spooled
from gobelin.protocols.messages import METRICS
from gobelin.shared.errors import EgressError, GobelinError, SitePolicyError
from gobelin.shared.notify import alive
from gobelin.shared.objective.moments import digest_of

UPLOADS = frozenset({"PushMessages", "PushObject"})  # requests that carry a departure
HEARTBEAT = "SendNodeHeartbeat"
REQUESTS = UPLOADS | {
    *("ActivateNode", "DeactivateNode", HEARTBEAT),
    *("PullMessages", "PullObject", "ConfirmMessageReceived"),
}
SESSION_EVERY_S = 600.0  # between records of requests that carry nothing
LOOK_EVERY_S = 5.0  # at the clock, while a departure waits
NOTHING_SPENT = Spent({}, 0)


def clear(spooled: Spooled, policy: SitePolicy, spent: Spent = NOTHING_SPENT) -> None:
    """Raise unless a contribution may leave as it is; `spent` is what has left before.

    EgressError where it is not what its header says; SitePolicyError where the policy, perhaps of
    today, keeps some of it here.
    """
    made, payload = spooled.contribution, spooled.payload
    if set(payload.segments) != set(payload.schema.segments):
        raise EgressError("the delta's segments are not its schema's")
    if payload.codec != made.codec or (payload.digest != made.delta_digest and not made.sealed):
        raise EgressError("the delta is not the one its header names")  # a sealed one's is blinded
    if digest_of(spooled.moments) != made.moments_digest:
        raise EgressError("the moments are not the ones the header names")
    if not made.metrics.keys() <= METRICS:
        raise EgressError("the header says more than is declared")
    try:
        payload.decode()  # sizes, and no NaN or infinity
    except GobelinError as error:
        raise EgressError(f"the delta cannot be decoded: {error.what}") from None
    kept = []
    kept += [f"{made.codec} deltas"] * (not made.sealed and not allows(policy, made.codec))
    kept += ["moments"] * bool(spooled.moments and not policy.moments)
    kept += ["figures of training"] * bool(TRAINING & made.metrics.keys() and not policy.metrics)
    kept += ["open contributions"] * (not made.sealed and policy.min_sealed_members is not None)
    if spooled.spend is not None and (TRAINING & made.metrics.keys() or spooled.moments):
        raise EgressError("figures of the data beside a delta that was trained with privacy")
    kept += _over_budget(spooled, policy, spent)
    if kept:
        raise SitePolicyError(
            f"policy.toml keeps the contribution to round {made.round} here: {', '.join(kept)}",
            "it was made under another policy; rounds to come keep to this one",
        )


def _over_budget(spooled: Spooled, policy: SitePolicy, spent: Spent) -> list[str]:
    """What `max_epsilon` keeps here."""
    if policy.max_epsilon is None:
        return []
    if spooled.spend is None:
        return ["what was trained without privacy"]
    after = spent.with_one(spooled.contribution.digest, spooled.spend).epsilon(policy.delta)
    over = f"ε = {after:.3g} where {policy.max_epsilon:g} is allowed"
    return [over] * (after > policy.max_epsilon)


class Egress:
    """At the connection; several threads may send requests."""

    def __init__(
        self,
        home: NodeHome,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`wall` is Unix time in seconds."""
        self._home = home
        self._wall = wall
        self._sleep = sleep
        self._ledger = EgressLedger(home.egress_file, wall)
        self._lock = threading.Lock()
        self._open: frozenset[str] | None = None  # objects of the departure that is on its way
        self._session: Counter[str] = Counter()
        self._session_bytes = 0
        self._upload: Counter[str] = Counter()
        self._upload_bytes = 0
        self._noted = wall()
        self._rate: tuple[float, float] | None = None  # bytes a second, since when

    @contextmanager
    def departing(self, departure: Departure, objects: frozenset[str]) -> Iterator[None]:
        """Let the objects of a departure leave: it is on record before, its bytes after.

        Raises EgressError on a ledger that is damaged.
        """
        policy = read_policy(self._home)
        self.note_session()
        if departure.purpose == CONTRIBUTION:
            spend = Spool(self._home.spool).spend_of(departure.round, departure.digest)
            departure = replace(departure, privacy=None if spend is None else spend.facts())
        number = self._ledger.leaving(departure)
        with self._lock:
            self._open, self._upload, self._upload_bytes = objects, Counter(), 0
            most = policy.max_mb_per_second
            self._rate = None if most is None else (1e6 * most, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._open, self._rate = None, None
                wire, requests = self._upload_bytes, dict(self._upload)
            self._ledger.left(number, wire, requests)

    def wait(self, departure: Departure, say: Callable[[str], None]) -> None:
        """Wait until the policy's hours and day have room for a departure."""
        size, told = departure.payload_bytes + departure.moments_bytes, ""
        while size:
            policy = read_policy(self._home)
            now = self._wall()
            wait = policy.opens_in(datetime.datetime.fromtimestamp(now))
            most = day_bytes(policy)
            full = most is not None and self._ledger.sent_since(now - DAY_S) + size > most
            if not wait and not full:
                return
            why = f"policy.toml opens at {policy.hours}" if wait else "the day's bytes are spent"
            if why != told:
                say(f"{why}; the contribution stays in the spool until then")
                told = why
            alive()
            self._sleep(LOOK_EVERY_S)

    def request(self, method: str, size: int, object_id: str = "") -> None:
        """Count a request that is about to be sent; raises EgressError on one nobody knows.

        `object_id` is what an upload carries, which must be of the departure on its way.
        """
        if method not in REQUESTS:
            raise EgressError(f"no request of this node is called {method[:40]!r}")
        if method != HEARTBEAT:  # which has a thread of its own, and says nothing of the work
            alive()
        with self._lock:
            if method not in UPLOADS:
                self._session[method] += 1
                self._session_bytes += size
                return
            if self._open is None or (object_id and object_id not in self._open):
                raise EgressError("an upload that the egress gate has not cleared")
            self._upload[method] += 1
            self._upload_bytes += size
            pause = self._pause()
        if pause > 0:
            self._sleep(pause)

    def _pause(self) -> float:
        """Seconds by which the departure is ahead of the policy's rate."""
        if self._rate is None:
            return 0.0
        rate, since = self._rate
        return self._upload_bytes / rate - (time.monotonic() - since)

    def note_session(self) -> None:
        """Put the requests since the last record on record."""
        with self._lock:
            size, requests = self._session_bytes, dict(self._session)
            self._session, self._session_bytes = Counter(), 0
        self._ledger.session(size, requests)
        self._noted = self._wall()

    def note_session_now_and_then(self) -> None:
        """As `note_session`, when it is due."""
        if self._wall() - self._noted >= SESSION_EVERY_S:
            self.note_session()

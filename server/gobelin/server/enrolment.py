"""Enrolment: invites, the requests they lead to, and who is admitted.

    enrolment/invites/ID.json         what was promised to whom; of the secret only a public key
    enrolment/requests/ID-NODE.json   a node that has shown it: waiting, approved or refused

An invite is bound to the first node that shows it (the first N, where it is for N). Whether a node
is admitted is in the roster log and nowhere else; a request only says what the operator decided. So
every step may be killed and done again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gobelin.protocols.enrolment import ADMIT, PURPOSE_ENROLMENT, Enrolment, RosterRecord
from gobelin.protocols.messages import MalformedMessageError
from gobelin.protocols.version import is_message, protocol_of
from gobelin.server.places import Places
from gobelin.server.roster import NodeEntry, require_name
from gobelin.server.roster_book import Change
from gobelin.shared.address import format_address
from gobelin.shared.certificates import anchor, key_of_csr
from gobelin.shared.errors import ConfigError, NoPlaceError, SignatureError, StateError
from gobelin.shared.federation import spki_pin
from gobelin.shared.files import PRIVATE, read_json, sweep, write_json
from gobelin.shared.formats import refusal_of_node
from gobelin.shared.invite import ID_DIGITS, Invite, describe_seconds, new_secret
from gobelin.shared.keys import fingerprint, public_pem
from gobelin.shared.locks import sole_owner
from gobelin.shared.roster_log import Signed
from gobelin.shared.signing import verify
from gobelin.shared.words import fingerprint_words

LOCK_WAIT_S = 20.0
SKEW_S = 60.0
KEPT_S = 30 * 86400.0  # after its end an invite is still told apart from one never made
WAITING, APPROVED, REFUSED, ADMITTED = "waiting", "approved", "refused", "admitted"
NODE_DIGITS = 32  # of a fingerprint, in names of files


@dataclass(frozen=True)
class Promise:
    """An invite as the aggregator keeps it."""

    id: str
    member: str
    role: str
    expires: int  # Unix seconds
    pre_approved: bool
    nodes: int  # how many it is for
    anchor: str  # PEM: the certificate its key is known by


@dataclass(frozen=True)
class Request:
    """A node that has shown an invite."""

    invite: str
    member: str
    node: str
    role: str
    public_key: str
    signing_key: str
    decided: str  # waiting, approved, refused
    reason: str = ""
    at: int = 0

    @property
    def entry(self) -> NodeEntry:
        """The node as it will stand on the roster."""
        return NodeEntry(self.member, self.node, self.public_key, self.signing_key, self.role)

    @property
    def words(self) -> str:
        """What operator and node compare."""
        return fingerprint_words(self.entry.id, self.signing_key)


@dataclass(frozen=True)
class Outcome:
    """How an enrolment stands."""

    state: str  # waiting, admitted, refused
    reason: str = ""  # a code
    what: str = ""
    words: str = ""
    entry: NodeEntry | None = None
    admission: Signed | None = None


class Desk:
    """Where invites are made and shown, and requests decided."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._invites = places.enrolment / "invites"
        self._requests = places.enrolment / "requests"

    @contextmanager
    def _held(self) -> Iterator[None]:
        with sole_owner(self._places.enrolment, LOCK_WAIT_S):
            yield

    @contextmanager
    def _turn(self) -> Iterator[Change]:
        """Hold the roster, so that nothing comes between looking who is on it and admitting."""
        with self._places.book.change(self._places.signing_key_file) as change:
            yield change

    # ------------------------------------------------------------ invites

    def invite(
        self, member: str, role: str, ttl_s: float, nodes: int = 1, pre_approved: bool = False
    ) -> Invite:
        """Make an invite; what is kept of it does not let anybody join."""
        require_name(member)
        front = self._places.front()
        network = front.network
        made = Invite(
            federation=front.name,
            member=member,
            service=format_address(network.host, network.service_port),
            fleet=format_address(network.host, network.port),
            ca_pin=spki_pin(self._places.ca()),
            federation_digest=self._places.federation_digest(),
            secret=new_secret(),
            expires=int(time.time() + ttl_s),
        )
        pem = anchor(made.key, made.id).decode()
        promise = Promise(made.id, member, role, made.expires, pre_approved, nodes, pem)
        with self._held():
            sweep(self._places.enrolment)
            write_json(self._invites / f"{made.id}.json", asdict(promise), PRIVATE)
        return made

    def promises(self) -> list[Promise]:
        """The invites that are kept, in the order of their ids."""
        files = sorted(self._invites.glob("*.json")) if self._invites.exists() else []
        return [Promise(**_read(file, Promise)) for file in files]

    def anchors(self) -> bytes:
        """PEM of the certificates by which holders of invites are let in."""
        admitted = {signed.record.reason for signed in self._places.book.log().records}
        now = time.time()
        kept = [p for p in self.promises() if now < p.expires + KEPT_S or _of(p.id) in admitted]
        return "".join(promise.anchor for promise in kept).encode()

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever `anchors` may have."""
        folders = (self._invites, self._places.book.file)
        return tuple(path.stat().st_mtime_ns for path in folders if path.exists())

    # ------------------------------------------------------------ enrolment

    def enrol(self, invite_key: str, statement: bytes, signature: str) -> Outcome:
        """Take an enrolment by who holds the invite of a key (its fingerprint); idempotent."""
        promise = self._promise(invite_key)
        if promise is None:
            return _refused("unknown", "this aggregator knows no such invite")
        if is_message(statement) and (old := refusal_of_node(protocol_of(statement))):
            return _refused("protocol", old)
        try:
            asked = Enrolment.from_bytes(statement)
            verify(asked.signing_key, PURPOSE_ENROLMENT, statement, signature)
            key = public_pem(key_of_csr(asked.csr.encode(), asked.signing_key)).decode()
            require_name(asked.node)
        except (MalformedMessageError, SignatureError):
            return _refused("malformed", "the enrolment is malformed or not signed by its key")
        except ConfigError as error:
            return _refused("malformed", error.what)
        if refusal := self._mismatch(promise, asked):
            return refusal
        request = Request(
            invite=promise.id,
            member=promise.member,
            node=asked.node,
            role=promise.role,
            public_key=key,
            signing_key=asked.signing_key,
            decided=APPROVED if promise.pre_approved else WAITING,
            at=int(time.time()),
        )
        with self._held():
            return self._take(promise, request)

    def _mismatch(self, promise: Promise, asked: Enrolment) -> Outcome | None:
        if asked.federation_digest != self._places.federation_digest():
            return _refused("federation", "this invite is of another federation")
        if (asked.invite, asked.member) != (promise.id, promise.member):
            return _refused("malformed", f"this invite is for member {promise.member!r}")
        skew = asked.at_ms / 1000 - time.time()
        if abs(skew) > SKEW_S:
            way = "ahead of" if skew > 0 else "behind"
            what = f"the node's clock is {describe_seconds(abs(skew))} {way} the aggregator's"
            return _refused("clock", what)
        return None

    def _take(self, promise: Promise, request: Request) -> Outcome:
        file = self._file(promise.id, request.entry.id)
        if file.exists():
            kept = Request(**_read(file, Request))
            if (kept.signing_key, kept.node) != (request.signing_key, request.node):
                bound = f"this invite is bound to node {kept.node!r} and its keys"
                return _refused("bound", bound)
            return self._settle(kept)
        late = time.time() - promise.expires
        if late > 0:
            return _refused("expired", f"this invite expired {describe_seconds(late)} ago")
        others = [other for other in self._read_requests() if other.invite == promise.id]
        if len(others) >= promise.nodes:
            return _refused("used", "this invite has been used by another node")
        with self._turn() as change:
            try:
                self._require_free(change, request)
            except ConfigError as error:  # nothing is written: the invite holds as before
                return _not_free(error)
            write_json(file, asdict(request), PRIVATE)
            return _waits(request) if request.decided == WAITING else _admit(change, request)

    def _require_free(self, change: Change, request: Request) -> None:
        """Raise ConfigError unless a node can have this name, these keys and a place."""
        change.admitted(request.entry)
        for other in self._read_requests():
            waits = other.decided == WAITING and other.entry.id != request.entry.id
            if waits and other.node == request.node:
                raise ConfigError(
                    f"a node named {request.node!r} is waiting already", "choose another --node"
                )

    def status(self, invite_key: str, node_id: str) -> Outcome:
        """How the enrolment of a node by an invite stands."""
        promise = self._promise(invite_key)
        known = promise and re.fullmatch(r"[0-9a-f]{64}", node_id)  # it becomes part of a path
        file = self._file(promise.id, node_id) if promise and known else None
        if file is None or not file.exists():
            return _refused("unknown", "nothing is known of this enrolment")
        with self._held():
            return self._settle(Request(**_read(file, Request)))

    def _settle(self, request: Request) -> Outcome:
        """Admit who is approved and not yet on the roster, once."""
        if request.decided == REFUSED:
            return _refused("refused", f"the operator refused: {request.reason or 'no reason'}")
        if request.decided == WAITING:
            return _waits(request)
        entry, reason, log = request.entry, _of(request.invite), self._places.book.log()
        if entry.id in log.current:
            return _admitted(request, next(s for s in reversed(log.records) if _is(s, entry)))
        if any(signed.record.reason == reason and _is(signed, entry) for signed in log.records):
            return _refused("revoked", f"node {entry.name!r} is no longer on the roster")
        with self._turn() as change:
            try:
                return _admit(change, request)
            except ConfigError as error:
                return _not_free(error)

    # ------------------------------------------------------------ the operator's part

    def requests(self) -> list[Request]:
        """All requests, those that wait first, then by time."""
        return sorted(self._read_requests(), key=lambda r: (r.decided != WAITING, r.at, r.node))

    def waiting(self) -> list[Request]:
        """The requests that wait for the operator."""
        return [request for request in self.requests() if request.decided == WAITING]

    def decide(self, who: str, approve: bool, reason: str = "") -> Request:
        """Approve or refuse the request that waits under this name or these words.

        Raises ConfigError when there is none, or when the name has been taken meanwhile, and
        NoPlaceError; it waits on then.
        """
        with self._held(), self._turn() as change:
            request = self._find(who)
            if approve:
                self._require_approvable(change, request)
            decided = replace(request, decided=APPROVED if approve else REFUSED, reason=reason)
            file = self._file(request.invite, request.entry.id)
            write_json(file, asdict(decided), PRIVATE)
            if approve:
                _admit(change, decided)
        return decided

    def _require_approvable(self, change: Change, request: Request) -> None:
        refuse = f"gobelin aggregator refuse {request.node}"
        try:
            self._require_free(change, request)
        except NoPlaceError as error:
            raise NoPlaceError(error.what, f"{error.remedy}; or {refuse}") from None
        except ConfigError as error:
            raise ConfigError(error.what, refuse) from None

    def _find(self, who: str) -> Request:
        waiting = self.waiting()
        told = " ".join(who.lower().split())
        found = [r for r in waiting if told == r.words or who.strip() == r.node]
        if len(found) != 1:
            names = ", ".join(sorted(r.node for r in waiting)) or "nobody"
            raise ConfigError(
                f"no enrolment waits under {who!r}; waiting: {names}",
                "see `gobelin aggregator requests`",
            )
        return found[0]

    # ------------------------------------------------------------ files

    def _promise(self, invite_key: str) -> Promise | None:
        file = self._invites / f"{invite_key[:ID_DIGITS]}.json"
        return Promise(**_read(file, Promise)) if file.exists() else None

    def _read_requests(self) -> list[Request]:
        files = sorted(self._requests.glob("*.json")) if self._requests.exists() else []
        return [Request(**_read(file, Request)) for file in files]

    def _file(self, invite: str, node_id: str) -> Path:
        return self._requests / f"{invite}-{node_id[:NODE_DIGITS]}.json"


def _is(signed: Signed, entry: NodeEntry) -> bool:
    record: RosterRecord = signed.record
    return record.change == ADMIT and fingerprint(record.public_key.encode()) == entry.id


def _of(invite: str) -> str:
    """The reason on the roster of an admission by an invite."""
    return f"invite {invite}"


def _waits(request: Request) -> Outcome:
    return Outcome(WAITING, words=request.words, entry=request.entry)


def _admit(change: Change, request: Request) -> Outcome:
    """Put who is approved on the roster; raises ConfigError where it is not free for it."""
    return _admitted(request, change.admit(request.entry, _of(request.invite)))


def _admitted(request: Request, admission: Signed) -> Outcome:
    return Outcome(ADMITTED, words=request.words, entry=request.entry, admission=admission)


def _not_free(error: ConfigError) -> Outcome:
    return _refused("no_place" if isinstance(error, NoPlaceError) else "taken", error.what)


def _refused(reason: str, what: str) -> Outcome:
    return Outcome(REFUSED, reason, what)


def _read(file: Path, kind: type[Any]) -> dict[str, Any]:
    row = read_json(file)
    if row.keys() != set(kind.__dataclass_fields__):
        raise StateError(f"{file} is not as gobelin writes it", "restore it from a backup")
    return row

"""Our own gRPC service beside the round: enrolment, the roster, certificates, leaving, releases.

A process of its own, supervised by `gobelin aggregator up`. TLS 1.3 with the federation's CA, and
nobody is heard without a certificate of a key the federation knows: an invite's or a node's. What a
caller may do is asked of the roster at every call, so a revoked node is refused at the next one.
"""

from __future__ import annotations

import os

from gobelin.server.tls import TLS13

os.environ.update(TLS13)  # before grpc is imported: it reads them once
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else a line for every handshake that fails

import json
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc
from cryptography import x509

from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.federation_pb2_grpc import (
    FederationServicer,
    add_FederationServicer_to_server,
)
from gobelin.protocols.version import PROTOCOL
from gobelin.server.enrolment import ADMITTED, WAITING, Desk, Outcome
from gobelin.server.leaving import leave
from gobelin.server.places import Places
from gobelin.server.releases import STREAMS, ReleaseDesk
from gobelin.shared.address import format_address
from gobelin.shared.certificates import certify_node, issued_by
from gobelin.shared.errors import GobelinError, PortInUseError
from gobelin.shared.keys import fingerprint, load_private_key, parse_public_key, public_pem
from gobelin.shared.logs import facts
from gobelin.shared.roster_log import Signed

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 16  # of any request: known before it is read
WORKERS = 8 + STREAMS  # so that releases on their way keep nobody from enrolling
WAITING_CALLS = 64  # beyond them a call is refused at once
FAILURES = 10  # refused enrolments by one invite within FAILURE_WINDOW_S
FAILURE_WINDOW_S = 60.0
PROBES = 160  # by one caller within PROBE_WINDOW_S: 10 MB, of at most MAX_REQUEST_BYTES each
PROBE_WINDOW_S = 60.0
PAGE = 500  # records in one answer
GRACE_S = 2.0  # for calls under way when the service ends
STATES = {WAITING: pb.WAITING, ADMITTED: pb.ADMITTED}
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.so_reuseport", 0),
]


class Throttle:
    """Counts failures (or what else is to be seldom) by caller, and says when it was too many.

    Callers are keys that TLS has shown, not hosts: a site's nodes may share one address.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        most: int = FAILURES,
        window_s: float = FAILURE_WINDOW_S,
    ) -> None:
        """`most` within `window_s` are too many."""
        self._clock = clock
        self._most, self._window_s = most, window_s
        self._failed: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=most))
        self._lock = threading.Lock()

    def note(self, caller: str) -> None:
        """One more."""
        with self._lock:
            self._failed[caller].append(self._clock())

    def wait_s(self, caller: str) -> float:
        """Seconds until it may try again; 0 for now."""
        with self._lock:
            now = self._clock()
            for known, times in list(self._failed.items()):
                if now - times[-1] >= self._window_s:
                    del self._failed[known]  # long ago
            times = self._failed.get(caller, deque())
            full = len(times) == self._most
            return max(0.0, self._window_s - (now - times[0])) if full else 0.0


class Service(FederationServicer):
    """Answers calls; all state is on disk."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._desk = Desk(places)
        self._ca = places.ca()
        self._ca_key = load_private_key(places.tls / "ca.key")
        self._throttle = Throttle()
        self._probes = Throttle(most=PROBES, window_s=PROBE_WINDOW_S)
        self._releases = ReleaseDesk(places.releases)

    # ------------------------------------------------------------ before enrolment

    def Authority(
        self, request: pb.AuthorityRequest, context: grpc.ServicerContext
    ) -> pb.AuthorityReply:
        """The federation's ca.pem, and what it trains and asks of nodes."""
        places = self._places
        recipe = places.recipe_file.read_bytes()
        terms = json.dumps(places.terms(), sort_keys=True)
        return pb.AuthorityReply(ca_pem=places.ca_file.read_bytes(), recipe=recipe, terms=terms)

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeReply:
        """Forget some bytes, and say what time it is; few a minute for each caller."""
        clock_ms, key = int(time.time() * 1000), _key_of(context)
        if wait_s := self._probes.wait_s(key):
            _deny(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"try again in {wait_s:.0f} s")
        self._probes.note(key)
        return pb.ProbeReply(clock_ms=clock_ms)

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolmentReply:
        """Take an enrolment by the holder of an invite."""
        key = _key_of(context)
        if wait_s := self._throttle.wait_s(key):
            _deny(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"try again in {wait_s:.0f} s")
        outcome = self._desk.enrol(key, request.enrolment, request.signature)
        if outcome.reason:
            self._throttle.note(key)
            told = facts("enrolment_refused", reason=outcome.reason)
            log.warning("enrolment refused: %s", outcome.reason, extra=told)
        return self._told(outcome)

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.EnrolmentReply:
        """How an enrolment stands."""
        return self._told(self._desk.status(_key_of(context), request.node))

    def _told(self, outcome: Outcome) -> pb.EnrolmentReply:
        reply = pb.EnrolmentReply(
            state=STATES.get(outcome.state, pb.REFUSED),
            reason=outcome.reason,
            what=outcome.what,
            words=outcome.words,
            ca_pem=self._places.ca_file.read_bytes(),
            genesis=self._places.genesis(),
            protocol=PROTOCOL,
        )
        if outcome.entry is not None and outcome.admission is not None:
            key = parse_public_key(outcome.entry.public_key.encode(), "a request")
            reply.certificate = certify_node(self._ca, self._ca_key, key, outcome.entry.name)
            reply.record = outcome.admission.record.to_bytes()
            reply.signature = outcome.admission.signature
        return reply

    # ------------------------------------------------------------ of enrolled nodes

    def Roster(self, request: pb.RosterRequest, context: grpc.ServicerContext) -> pb.RosterReply:
        """The roster log from one record on."""
        self._node(context)
        records = self._places.book.log().records
        page = records[request.first : request.first + PAGE]
        return pb.RosterReply(records=map(_signed, page), length=len(records))

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewReply:
        """A fresh certificate for the key that asks."""
        node = self._node(context)
        record = self._places.book.log().current[node]
        key = parse_public_key(record.public_key.encode(), "the roster")
        return pb.RenewReply(certificate=certify_node(self._ca, self._ca_key, key, record.node))

    def Leave(self, request: pb.LeaveRequest, context: grpc.ServicerContext) -> pb.LeaveReply:
        """Take a node off the roster, with what was earned; the same again gives the same."""
        node = self._node(context, may_have_left=True)
        try:
            left = leave(self._places, node, request.departure, request.signature)
        except GobelinError as error:
            _deny(context, grpc.StatusCode.INVALID_ARGUMENT, error.what)
        return pb.LeaveReply(
            exit=left.confirmed.to_bytes(),
            signature=left.signature,
            receipts=[receipt.to_bytes() for receipt in left.receipts],
            records=map(_signed, left.records),
        )

    def Releases(
        self, request: pb.ReleasesRequest, context: grpc.ServicerContext
    ) -> pb.ReleasesReply:
        """The signed releases there are, newest first."""
        self._node(context)
        return self._releases.page(request)

    def ReleaseFile(
        self, request: pb.ReleaseFileRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReleaseChunk]:
        """A file of a release from an offset on."""
        yield from self._releases.stream(self._node(context), request, context)

    def _node(self, context: grpc.ServicerContext, may_have_left: bool = False) -> str:
        """The fingerprint of the node that calls; refuses any other caller."""
        certificate = _certificate_of(context)
        key = fingerprint(_pem_of(certificate))
        roster = self._places.book.log()
        if not issued_by(self._ca, certificate):
            _deny(context, grpc.StatusCode.PERMISSION_DENIED, "an invite may only enrol")
        last = roster.last_of(key)
        left = may_have_left and last is not None and last.record.change == "leave"
        if key not in roster.current and not left:
            _deny(context, grpc.StatusCode.UNAUTHENTICATED, "this node is not on the roster")
        return key


def serve(
    places: Places, stop: threading.Event, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until `stop` is set, `ready` told where as soon as it does; raises PortInUseError."""
    network = places.front().network
    address = format_address(network.local, network.service_port)
    server = grpc.server(
        futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="service"),
        options=OPTIONS,
        maximum_concurrent_rpcs=WAITING_CALLS,
    )
    add_FederationServicer_to_server(Service(places), server)  # type: ignore[no-untyped-call]
    try:
        server.add_secure_port(address, _credentials(places))
    except RuntimeError:
        raise PortInUseError(
            f"cannot listen on {address}",
            "stop what uses it, or change network.listen / network.service_port in federation.toml",
        ) from None
    server.start()
    ready(format_address(network.host, network.service_port))
    try:
        stop.wait()
    finally:
        server.stop(GRACE_S).wait()


def _credentials(places: Places) -> Any:
    """TLS with the server's key; callers are those of the CA and those with an invite.

    Looked at again at every handshake, so that an invite holds from the moment it is made.
    """
    desk, tls = Desk(places), places.tls
    ca = places.ca_file.read_bytes().partition(b"-----BEGIN PUBLIC KEY-----")[0]
    pair = ((tls / "server.key").read_bytes(), (tls / "server.pem").read_bytes())

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration([pair], ca + desk.anchors())

    seen = [desk.stamp()]

    def changed() -> Any:
        stamp = desk.stamp()
        if stamp == seen[0]:
            return None
        seen[0] = stamp
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), changed, True)


def _certificate_of(context: grpc.ServicerContext) -> x509.Certificate:
    (pem,) = context.auth_context()["x509_pem_cert"]  # the handshake insists on one
    return x509.load_pem_x509_certificate(pem)


def _key_of(context: grpc.ServicerContext) -> str:
    """Fingerprint of the key that the caller has shown it holds."""
    return fingerprint(_pem_of(_certificate_of(context)))


def _pem_of(certificate: x509.Certificate) -> bytes:
    key: Any = certificate.public_key()
    return public_pem(key)


def _signed(signed: Signed) -> pb.SignedRecord:
    return pb.SignedRecord(record=signed.record.to_bytes(), signature=signed.signature)


def _deny(context: grpc.ServicerContext, code: grpc.StatusCode, what: str) -> NoReturn:
    context.abort(code, what)
    raise AssertionError  # never: abort has raised

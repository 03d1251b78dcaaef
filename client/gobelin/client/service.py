"""The node's end of our own service: who is there, is it the right one, and calls to it.

Before the CA is known its file is fetched from whoever answers, and believed by the invite's pin
alone (as k3s and kubeadm do it). No secret is sent at any time: an invite's stands for a key that
the handshake shows.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before grpc is imported

import ssl
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from cryptography import x509

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.route import route_to
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.federation_pb2_grpc import FederationStub
from gobelin.shared.address import parse_address
from gobelin.shared.certificates import issued_by
from gobelin.shared.errors import (
    OTHER_VERSION,
    ClockError,
    ConfigError,
    EnrolmentError,
    FetchError,
    InviteError,
    UnreachableError,
    WrongCAError,
)
from gobelin.shared.federation import parse_certificate, spki_pin
from gobelin.shared.files import PRIVATE
from gobelin.shared.invite import AGAIN, describe_seconds

MAX_REPLY_BYTES = 32 << 20  # an exit bundle after thousands of rounds
CONNECT_S = 5.0
CALL_S = 20.0
BACKOFF_S = (0.2, 5.0)  # first and longest pause between tries
PROBE_BYTES = 60_000  # of one request of a probe
PROBES = 64  # of them at most: 3.84 MB
PROBE_S = 3.0
AT_ONCE = 4  # on their way
KNOCKS = 3  # a service that dies in the handshake looks like one that turns us away
Say = Callable[[str], None]


class Patience:
    """How long a silent aggregator is waited for, and what the wait is told by."""

    def __init__(self, give_up_s: float, say: Say) -> None:
        self._until = time.monotonic() + give_up_s
        self._delay = BACKOFF_S[0]
        self._say = say

    def wait(self, error: UnreachableError) -> None:
        """Sleep before another try; raises `error` when it is too late for one."""
        if time.monotonic() + self._delay >= self._until:
            raise error
        self._say(f"{error.what}; trying again in {self._delay:.1f} s")
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, BACKOFF_S[1])

    def insist(self, request: Callable[[], Any]) -> Any:
        """Its answer, tried again while the aggregator is unreachable."""
        while True:
            try:
                return request()
            except UnreachableError as error:
                self.wait(error)


class Noted(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Every call is on the egress ledger before it leaves."""

    def __init__(self, ledger: EgressLedger) -> None:
        self._ledger = ledger

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """A call with one answer; raises EgressError where the ledger is damaged."""
        self._note(details, request)
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """A call with several answers."""
        self._note(details, request)
        return continuation(details, request)

    def _note(self, details: Any, request: Any) -> None:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        self._ledger.call(str(details.method).rpartition("/")[2], data)


@dataclass(frozen=True)
class Link:
    """What a probe has found of the way to the service."""

    bytes_per_second: float  # that arrived, their answers waited for
    sent_bytes: int


@dataclass(frozen=True)
class Clock:
    """This machine's clock beside the service's."""

    ahead_s: float  # give or take half a trip
    round_trip_s: float


class Connection:
    """Calls to our service, as the holder of a key with a certificate; a context manager.

    What is sent goes on the node's egress ledger.
    """

    def __init__(
        self,
        address: str,
        ca_pem: bytes,
        key_pem: bytes,
        certificate: bytes,
        ledger: EgressLedger,
        proxy: str | None = None,
    ) -> None:
        """`proxy` is `network.proxy` of node.toml."""
        credentials = grpc.ssl_channel_credentials(_first(ca_pem), key_pem, certificate)
        most = ("grpc.max_receive_message_length", MAX_REPLY_BYTES)
        options = [most, *route_to(address, proxy).channel_options()]
        self._address = address
        channel = grpc.secure_channel(address, credentials, options)
        self._ledger = ledger
        self._channel = grpc.intercept_channel(channel, Noted(ledger))
        self._bare = FederationStub(channel)  # type: ignore[no-untyped-call]
        self._stub = FederationStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._channel.close()

    def ask(self, method: str, request: Any) -> Any:
        """One call; raises UnreachableError, EnrolmentError where it is denied."""
        try:
            return getattr(self._stub, method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise self._explained(error) from None

    def stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """The answers of one call, as they come; raises as `ask` does, also where it breaks off.

        Whoever stops listening ends the call.
        """
        call = getattr(self._stub, method)(request, timeout=timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._explained(error) from None
        finally:
            call.cancel()

    def clock(self) -> Clock:
        """This machine's clock beside the service's; raises as `ask` does."""
        self.ask("Probe", pb.ProbeRequest())  # the connection is made with the first call
        begun, at = time.monotonic(), time.time()
        told_ms = self.ask("Probe", pb.ProbeRequest()).clock_ms
        trip = time.monotonic() - begun
        return Clock(at + trip / 2 - told_ms / 1000, trip)

    def probe(self, seconds: float = PROBE_S) -> Link:
        """Time the way up by random bytes, for about so long; raises as `ask` does.

        PROBES requests are the most: the service takes few a minute. They are one record of the
        ledger, behind the first, for a record a request would be what is timed.
        """
        self.ask("Probe", pb.ProbeRequest())
        started = ended = time.monotonic()
        coming: deque[Any] = deque()
        sent = arrived = 0
        try:
            while coming or not sent:
                while sent < PROBES and len(coming) < AT_ONCE and ended - started < seconds:
                    asked = pb.ProbeRequest(padding=os.urandom(PROBE_BYTES))
                    coming.append(self._bare.Probe.future(asked, timeout=CALL_S))
                    sent += 1
                coming.popleft().result()
                arrived += PROBE_BYTES
                ended = time.monotonic()
        except grpc.RpcError as error:
            if not arrived:
                raise self._explained(error) from None
        finally:
            for call in coming:
                call.cancel()
            self._ledger.session(sent * PROBE_BYTES, {"Probe": sent})
        return Link(arrived / (ended - started), arrived)

    def _explained(self, error: grpc.RpcError) -> Exception:
        code, told = error.code(), str(error.details() or "")[:200]
        match code:
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return EnrolmentError(
                    f"{self._address} refuses this node: {told}", "ask the aggregator's operator"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return EnrolmentError(
                    f"{self._address} was asked too often: {told}", "wait a minute"
                )
            case grpc.StatusCode.INVALID_ARGUMENT:
                return EnrolmentError(f"{self._address}: {told}", OTHER_VERSION)
            case grpc.StatusCode.NOT_FOUND:
                return FetchError(f"{self._address}: {told}", "see `gobelin release list`")
            case grpc.StatusCode.UNIMPLEMENTED:
                return EnrolmentError(f"{self._address} knows no such request", OTHER_VERSION)
        return UnreachableError(
            f"{self._address} does not answer ({code.name.lower()})",
            "check the address and the network, and that the aggregator is up",
        )


def fetch_authority(
    address: str,
    pin: str,
    key_pem: bytes,
    certificate: bytes,
    ledger: EgressLedger,
    proxy: str | None = None,
) -> Any:
    """The AuthorityReply of whoever answers at `address`; its ca.pem is believed by its pin.

    Raises UnreachableError, InviteError when the holder of the invite is turned away, WrongCAError
    when another federation answers, ClockError when this machine's clock is outside the life of
    the aggregator's certificate.
    """
    leaf = _knock(address, key_pem, certificate, proxy)
    _require_clock(leaf, address)
    with Connection(address, leaf, key_pem, certificate, ledger, proxy) as unverified:
        reply = unverified.ask("Authority", pb.AuthorityRequest())
    try:
        ca = parse_certificate(reply.ca_pem, "the answer")
    except ConfigError:
        raise _wrong(address) from None
    if spki_pin(ca) != pin or not issued_by(ca, parse_certificate(leaf, "the answer")):
        raise _wrong(address)
    return reply


def _wrong(address: str) -> WrongCAError:
    return WrongCAError(
        f"{address} is not the federation of this invite: its CA has another pin",
        "do not go on; ask the aggregator's operator for the address",
    )


def _knock(address: str, key_pem: bytes, certificate: bytes, proxy: str | None) -> bytes:
    """The certificate of whoever answers, PEM, once it has let us in."""
    for _ in range(KNOCKS - 1):
        leaf, heard = _shake(address, key_pem, certificate, proxy)
        if heard:
            return leaf
        time.sleep(BACKOFF_S[0])
    leaf, heard = _shake(address, key_pem, certificate, proxy)
    if heard:
        return leaf
    raise InviteError(f"{address} does not know this invite", AGAIN)


def _shake(
    address: str, key_pem: bytes, certificate: bytes, proxy: str | None
) -> tuple[bytes, bool]:
    """Who answers, PEM, and whether we are heard: gRPC's first frame comes, or the end."""
    host, _ = parse_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is what counts
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:  # ssl reads keys from files alone
        pair = Path(folder) / "pair.pem"
        pair.touch(PRIVATE)
        pair.write_bytes(key_pem + certificate)
        context.load_cert_chain(pair)
    try:
        with (
            route_to(address, proxy).connect(address, CONNECT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            der = tls.getpeercert(binary_form=True) or b""
            try:
                heard = bool(tls.recv(1))
            except (ssl.SSLError, ConnectionError):
                heard = False  # an alert: our certificate is of no key it knows
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(
            f"{address} does not answer ({reason})",
            "check the address and the network, and that the aggregator is up",
        ) from None
    return ssl.DER_cert_to_PEM_cert(der).encode(), heard


def _require_clock(leaf: bytes, address: str) -> None:
    """Raise ClockError when this machine's time is outside the certificate's."""
    certificate = x509.load_pem_x509_certificate(leaf)
    now = time.time()
    early = certificate.not_valid_before_utc.timestamp() - now
    late = now - certificate.not_valid_after_utc.timestamp()
    if early > 0:
        raise ClockError(
            f"this machine's clock is at least {describe_seconds(early)} behind {address}'s",
            "set the clock (NTP), then run the same command again",
        )
    if late > 0:
        raise ClockError(
            f"{address}'s certificate ended {describe_seconds(late)} ago by this machine's clock",
            "set the clock (NTP); if it is right, tell the aggregator's operator",
        )


def _first(pem: bytes) -> bytes:
    """The certificate of a ca.pem without what stands behind it."""
    return pem.partition(b"-----BEGIN PUBLIC KEY-----")[0]

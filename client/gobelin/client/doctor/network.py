"""Checks of the way to the aggregator: proxy, names, ports, TLS pin, clock, upload."""

from __future__ import annotations

import datetime
import socket
import ssl
import time

from cryptography import x509

from gobelin.client.doctor.patient import Patient
from gobelin.shared.address import parse_address
from gobelin.shared.checkup import Found, fail, ok, skip, warn
from gobelin.shared.errors import ProxyError, UnreachableError, WrongCAError
from gobelin.shared.invite import describe_seconds

CONNECT_S = 8.0
SKEW_S = 60.0  # between two clocks, that is told
DAY_S = 86400.0
SOON_DAYS = 30.0
SLOW = 125_000.0  # bytes a second: 1 Mbit/s


def proxy(patient: Patient) -> Found:
    """Whether an HTTP proxy is on the way, and who says so."""
    route = patient.route(patient.fleet)
    return ok(str(route), proxied=bool(route.proxy), source=route.source)


def dns(patient: Patient) -> Found:
    """Whether the aggregator's name has an address here."""
    host, _ = parse_address(patient.fleet)
    if patient.route(patient.fleet).proxy:
        return skip(f"the proxy looks {host} up")
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return fail(
            "dns", f"{host} has no address here ({reason})", f"`getent hosts {host}`; mend DNS"
        )
    return ok(f"{host} is {', '.join(sorted(found))}")


def rounds_port(patient: Patient) -> Found:
    """Whether the port of rounds can be reached."""
    return _port(patient, patient.fleet)


def service_port(patient: Patient) -> Found:
    """Whether the port of our service can be reached."""
    if patient.service is None:
        return skip("this node was admitted by its node.pub: it needs no service")
    return _port(patient, patient.service)


def _port(patient: Patient, address: str) -> Found:
    started = time.monotonic()
    route = patient.route(address)
    through = f" through {route.via}" if route.proxy else ""
    try:
        route.connect(address, CONNECT_S).close()
    except ProxyError:
        raise
    except OSError as error:
        host, port = parse_address(address)
        reason = error.strerror or type(error).__name__
        return fail(
            UnreachableError.code,
            f"{address} cannot be reached{through} ({reason})",
            f"`nc -vz {host} {port}`; have outbound TCP to it opened, "
            "and ask its operator whether the aggregator is up",
        )
    return ok(f"{address} answers in {1000 * (time.monotonic() - started):.0f} ms{through}")


def tls_pin(patient: Patient) -> Found:
    """Whether who answers at both ports has a certificate of the pinned CA, and for how long."""
    addresses = [patient.fleet, *([patient.service] if patient.service else [])]
    left = min(_days_left(patient, address) for address in addresses)
    where = " and ".join(addresses)
    if left < SOON_DAYS:
        return warn(
            "server_certificate",
            f"{where}: the pinned CA's, for {left:.1f} days more",
            "tell the aggregator's operator, who renews it",
            days=left,
        )
    return ok(f"{where}: the pinned CA's, for {left:.0f} days more", days=left)


def _days_left(patient: Patient, address: str) -> float:
    """Days that the certificate of who answers still holds; raises WrongCAError."""
    host, _ = parse_address(address)
    try:
        context = ssl.create_default_context(cafile=str(patient.node.ca_file))
    except OSError:
        raise WrongCAError(
            f"{patient.node.ca_file} is no certificate", "ask the aggregator's operator for ca.pem"
        ) from None
    context.set_alpn_protocols(["h2"])
    context.check_hostname = True
    try:
        with (
            patient.route(address).connect(address, CONNECT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            der = tls.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        raise WrongCAError(
            f"{address} is not this federation's aggregator: {error.verify_message}",
            "check address and clock, and ask its operator for the ca.pem of today",
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(
            f"{address} ends the handshake ({reason})", "see the check of its port"
        ) from None
    ends = x509.load_der_x509_certificate(der).not_valid_after_utc
    return (ends - datetime.datetime.now(datetime.UTC)).total_seconds() / DAY_S


def invite(patient: Patient) -> Found:
    """Whether the invite is known to who answers, whose CA has the invite's pin."""
    if patient.invite is None:
        return skip("no invite was given")
    patient.invite.require_fresh()
    patient.authority()
    left = describe_seconds(patient.invite.expires - time.time())
    return ok(
        f"of {patient.invite.federation!r} for {patient.invite.member!r}, for {left} more; "
        "who answers has the pinned CA"
    )


def clock(patient: Patient) -> Found:
    """This machine's clock beside the aggregator's."""
    if patient.invite is None and not patient.node.certificate_file.exists():
        return skip("not compared: without a certificate of the service's it cannot be asked")
    with patient.connected() as service:
        found = service.clock()
    ahead, give = found.ahead_s, found.round_trip_s / 2
    told = f"{abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} the aggregator's"
    if abs(ahead) - give > SKEW_S:
        return fail(
            "clock", f"this machine's clock is {told}", "`timedatectl set-ntp true`", ahead_s=ahead
        )
    return ok(f"{told} (± {give:.2g} s)", ahead_s=ahead, within_s=give)


def upload(patient: Patient) -> Found:
    """How fast bytes leave for the aggregator."""
    if patient.invite is None and not patient.node.certificate_file.exists():
        rate = patient.rate() if patient.node.uplink_file.exists() else None
        return ok(str(rate)) if rate else skip("not measured before the first contribution")
    found = patient.link()
    told = (
        f"{8e-6 * found.bytes_per_second:.3g} Mbit/s by {found.sent_bytes / 1e6:.2g} MB of random "
        "bytes"
    )
    facts = {"bytes_per_second": found.bytes_per_second, "sent_bytes": found.sent_bytes}
    if found.bytes_per_second < SLOW:
        remedy = "the first contribution may take hours: a coarser codec, [egress] max_mb_per_round"
        return warn("slow_link", told, remedy, **facts)
    return ok(told, **facts)

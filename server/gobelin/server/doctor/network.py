"""Checks of processes and ports: who listens, with which certificate, and what must not be seen."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509

from gobelin.server.home import AggregatorHome
from gobelin.server.supervisor import require_free
from gobelin.shared.address import format_address
from gobelin.shared.certificates import issued_by
from gobelin.shared.checkup import Found, fail, ok, skip, warn
from gobelin.shared.errors import WrongCAError
from gobelin.shared.federation import parse_certificate
from gobelin.shared.locks import is_owned

CONNECT_S = 5.0
SOON_DAYS = 30.0
RENEW = "`gobelin aggregator renew-certificate`, then start `up` again"
UP = "gobelin aggregator up"


def processes(home: AggregatorHome) -> Found:
    """Whether the aggregator is up and its rounds are run, by the locks their processes hold."""
    if not is_owned(home.folder):
        return warn("not_up", "the aggregator is not up", f"`{UP} --home {home.folder}`")
    if not is_owned(home.rounds):
        return warn(
            "no_rounds",
            "the aggregator is up, and nobody runs its rounds",
            f"wait a minute; then see the logs in {home.flower}, or stop and start `{UP}`",
        )
    return ok("the aggregator is up and its rounds are run")


def rounds_port(home: AggregatorHome) -> Found:
    """Whether nodes' port is free, or answered by this federation."""
    network = home.settings().network
    return _port(home, network.port, "network.listen / network.port")


def service_port(home: AggregatorHome) -> Found:
    """Whether the service's port is free, or answered by this federation."""
    network = home.settings().network
    return _port(home, network.service_port, "network.listen / network.service_port")


def _port(home: AggregatorHome, port: int, settings: str) -> Found:
    host = home.settings().network.local
    address = format_address(host, port)
    if not is_owned(home.folder):
        require_free(host, port, settings)
        return ok(f"{address} is free")
    try:
        _shake(home, host, port)
    except ssl.SSLCertVerificationError:
        raise WrongCAError(
            f"{address} is answered with a certificate that is not this federation's",
            f"`ss -ltnp 'sport = :{port}'` says by whom; stop it, or change {settings}",
        ) from None
    except OSError as error:
        return fail(
            "silent",
            f"the aggregator is up, and {address} does not answer "
            f"({error.strerror or type(error).__name__})",
            f"see the logs in {home.flower}; stop and start `{UP}`",
        )
    return ok(f"{address} answers with this federation's certificate")


def _shake(home: AggregatorHome, host: str, port: int) -> None:
    """A handshake with whoever answers; raises OSError, SSLCertVerificationError."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    context = ssl.create_default_context(cafile=str(home.ca_file))
    context.check_hostname = False  # which names it holds is another check
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((here, port), CONNECT_S) as raw,
        context.wrap_socket(raw) as tls,
    ):
        tls.getpeercert()


def certificate(home: AggregatorHome) -> Found:
    """Whether the server's certificate is the CA's, names the host, and for how long it holds."""
    file = home.tls / "server.pem"
    known = parse_certificate(file.read_bytes(), str(file))
    if not issued_by(home.ca(), known):
        return fail("certificate", f"{file} is not signed by {home.ca_file}", "restore a backup")
    now = datetime.datetime.now(datetime.UTC)
    ends = min(known.not_valid_after_utc, home.ca().not_valid_after_utc)
    left = (ends - now).total_seconds() / 86400
    host, names = home.settings().network.host, _names(known)
    told = f"for {', '.join(names)}; {left:.0f} days more"
    if left <= 0:
        return fail("certificate", f"ended {-left:.0f} days ago", RENEW)
    if host not in names and not _is_any(host):
        return fail(
            "certificate",
            f"{told}: not for {host}, which invites name",
            "set network.host in federation.toml to one of these",
            names=names,
        )
    if known.not_valid_before_utc > now:
        return fail("certificate", "does not hold yet", "`timedatectl set-ntp true`")
    if left < SOON_DAYS:
        return warn("certificate", told, RENEW, days=left)
    return ok(told, days=left, names=names)


def _names(known: x509.Certificate) -> list[str]:
    try:
        told = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in told]


def _is_any(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def private_ports(home: AggregatorHome) -> Found:
    """Whether Flower's Control and Runtime APIs are heard on loopback alone.

    Whoever reaches them may run what he likes. The SuperLink's own command line says where they
    listen (Linux).
    """
    if not is_owned(home.folder):
        return skip("the aggregator is not up")
    found = _control_address(home)
    if found is None:
        return skip("the SuperLink's process cannot be looked at from here")
    host, port = found
    if not ipaddress.ip_address(host).is_loopback:
        return fail("exposed", f"the Control API listens on {host}:{port}", "stop it at once")
    for address in _own_addresses():
        try:
            socket.create_connection((address, port), 1.0).close()
        except OSError:
            continue
        return fail(
            "exposed",
            f"the Control API is reached at {address}:{port}: whoever is may run code here",
            f"stop the aggregator; find what forwards port {port} to loopback",
        )
    return ok(f"the Control API listens on {host}:{port}, and on no other address of this machine")


def _control_address(home: AggregatorHome) -> tuple[str, int] | None:
    """Where the SuperLink of this home was told to listen, by its command line."""
    database = str(home.flower / "link.db")
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if database in words and "--port" in words and "--host" in words:
            host, port = words[words.index("--host") + 1], words[words.index("--port") + 1]
            return host, int(port)
    return None


def _own_addresses() -> set[str]:
    """Addresses of this machine that are not loopback's."""
    found = set()
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((far, 9))  # of a datagram socket: nothing is sent
            except OSError:
                continue
            found.add(str(probe.getsockname()[0]))
    try:
        rows = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        rows = []
    found |= {str(row[4][0]).partition("%")[0] for row in rows}
    return {address for address in found if not ipaddress.ip_address(address).is_loopback}

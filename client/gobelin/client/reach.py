"""Reaching the aggregator: wait for it with backoff, and know it by the pinned CA."""

from __future__ import annotations

import ssl
import time

from gobelin.client.home import NodeHome, NodeStatus, Say
from gobelin.client.route import route_to
from gobelin.shared.address import parse_address
from gobelin.shared.errors import UnreachableError, WrongCAError

BACKOFF_MAX_S = 15
CONNECT_S = 10.0


def wait_reachable(home: NodeHome, say: Say, give_up_s: float) -> None:
    """Wait until the aggregator answers with a certificate of the pinned CA.

    Raises WrongCAError at once when it answers with another, ProxyError when a proxy on the way
    refuses, UnreachableError after `give_up_s`.
    """
    settings = home.settings()
    address = settings.aggregator
    host, _ = parse_address(address)
    route = route_to(address, settings.network.proxy)
    try:
        tls = ssl.create_default_context(cafile=str(home.ca_file))
    except (ssl.SSLError, OSError):
        raise WrongCAError(
            f"{home.ca_file} is no certificate", "ask the aggregator's operator for ca.pem"
        ) from None
    tls.set_alpn_protocols(["h2"])
    started, delay = time.monotonic(), 0.5
    while True:
        try:
            with (
                route.connect(address, CONNECT_S) as raw,
                tls.wrap_socket(raw, server_hostname=host),
            ):
                return
        except ssl.SSLCertVerificationError as error:
            raise WrongCAError(
                f"{address} is not this federation's aggregator: {error.verify_message}",
                "check the address, and ask its operator for the ca.pem of today",
            ) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if time.monotonic() - started >= give_up_s:
                raise UnreachableError(
                    f"{address} does not answer ({reason})",
                    "check the address and the network, and that the aggregator is up",
                ) from None
            say(NodeStatus("waiting", note=f"{address}: {reason}; trying again in {delay:.1f} s"))
            time.sleep(delay)
            delay = min(1.5 * delay, BACKOFF_MAX_S)

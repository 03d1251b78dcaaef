"""The route to the aggregator: straight, or through an HTTP proxy (CONNECT, RFC 9110 §9.3.6).

One rule for all that a node opens: the rounds, our service, and looks at ports. What `node.toml`
says goes before the environment's `grpc_proxy`, `https_proxy` and `http_proxy`, in either case;
`no_grpc_proxy` and `no_proxy` name hosts that are reached straight. gRPC and sockets are told the
outcome, and look at no variable themselves.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from gobelin.shared.address import format_address, parse_address
from gobelin.shared.errors import ConfigError, ProxyError

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
SPARED = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Route:
    """How connections to one address are opened."""

    proxy: str = ""  # http://user:password@host:port; "" for straight
    source: str = ""  # who says so, for an operator

    def __str__(self) -> str:
        """For an operator: no password."""
        if not self.proxy:
            return f"straight{f' ({self.source})' if self.source else ''}"
        return f"through {self.via} ({self.source})"

    @property
    def via(self) -> str:
        """The proxy's host:port; raises ConfigError on what names none."""
        told = _parts(self.proxy)
        return format_address(told.hostname or "", told.port or 3128)

    def channel_options(self) -> list[tuple[str, Any]]:
        """What gRPC is to be told."""
        if not self.proxy:
            return [("grpc.enable_http_proxy", 0)]
        user = _parts(self.proxy).netloc.rpartition("@")[0]
        return [("grpc.http_proxy", f"http://{user}{'@' if user else ''}{self.via}")]

    def connect(self, address: str, timeout_s: float) -> socket.socket:
        """A connection to host:port; raises OSError, and ProxyError where the proxy refuses it."""
        host, port = parse_address(address)
        if not self.proxy:
            return socket.create_connection((host, port), timeout_s)
        told, headers = _parts(self.proxy), {}
        if told.username is not None:
            login = f"{unquote(told.username)}:{unquote(told.password or '')}"
            shown = base64.b64encode(login.encode()).decode()
            headers["Proxy-Authorization"] = f"Basic {shown}"
        via, via_port = parse_address(self.via)
        way = http.client.HTTPConnection(via, via_port, timeout=timeout_s)
        way.set_tunnel(host, port, headers)
        try:
            way.connect()
        except OSError as error:
            if "Tunnel connection failed" not in str(error):
                raise
            raise self._refused(address, str(error)) from None
        except http.client.HTTPException:
            raise self._refused(address, "it does not answer as an HTTP proxy") from None
        return way.sock

    def _refused(self, address: str, told: str) -> ProxyError:
        """What the proxy's answer means."""
        remedy = "have your network's operators let CONNECT pass to this host and port"
        if " 407" in told:
            remedy = "put user:password@ before the proxy's host, in network.proxy or https_proxy"
        return ProxyError(f"the proxy {self.via} does not let {address} pass ({told})", remedy)


def route_to(
    address: str, stated: str | None = None, environ: Mapping[str, str] = os.environ
) -> Route:
    """The route to host:port; `stated` is `network.proxy` of node.toml, "" there for none.

    A proxy of the environment is not asked for this machine's own addresses. Raises ConfigError on
    a proxy that is none.
    """
    if stated is not None:
        return _checked(Route(stated, "network.proxy"))
    name, proxy = _first(environ, PROXIES)
    host, port = parse_address(address)
    if not proxy or _is_loopback(host):
        return Route()
    spared, hosts = _first(environ, SPARED)
    if any(_matches(entry.strip(), host, port) for entry in hosts.split(",") if entry.strip()):
        return Route("", f"{spared} spares {host}")
    return _checked(Route(proxy, name))


def _checked(route: Route) -> Route:
    """The route; raises ConfigError where its proxy is none that gRPC can use."""
    if route.proxy:
        _parts(route.proxy)
    return route


def _parts(proxy: str) -> SplitResult:
    try:
        told = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        usable = told.scheme == "http" and told.hostname and told.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = proxy.rpartition("@")[2]
        raise ConfigError(
            f"{shown!r} is no HTTP proxy", "write it as http://host:port or http://user:password@…"
        )
    return told


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of some variables that is set, in lower or upper case, and its value."""
    for name in names:
        for spelt in (name, name.upper()):
            if environ.get(spelt):
                return spelt, environ[spelt]
    return "", ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy is of a host: *, a network, or a name and all below it."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    name, colon, at = entry.rpartition(":")
    if colon and at.isdecimal() and "]" not in at:
        if int(at) != port:
            return False
        entry = name
    entry = entry.strip("[]").lstrip("*").lstrip(".").lower()
    return bool(entry) and (host.lower() == entry or host.lower().endswith(f".{entry}"))

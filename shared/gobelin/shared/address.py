"""Network addresses as operators write them: host:port, and [::1]:port for IPv6."""

from __future__ import annotations

import ipaddress

from gobelin.shared.errors import ConfigError


def parse_address(address: str) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port; raises ConfigError."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    usable = colon and host and host.isascii() and bracketed == _is_ipv6(host)
    if not usable or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"{address!r} is no address", "write it as host:port, or [::1]:port")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """host:port, with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False

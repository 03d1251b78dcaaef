"""Loopback is never behind a proxy: the aggregator's own processes find each other there.

Flower's HTTP clients go through the environment's `https_proxy`, for 127.0.0.1 as well.
"""

from __future__ import annotations

from collections.abc import Mapping

HOSTS = ("127.0.0.1", "localhost", "::1")


def sparing_loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """`no_proxy`, in both cases that programs read, with loopback added."""
    told = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in told.split(",") if entry.strip()]
    entries += [host for host in HOSTS if host not in entries]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(entries))

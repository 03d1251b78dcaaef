"""The aggregator's own processes are never asked for through a proxy."""

from __future__ import annotations

import httpx
import pytest

from gobelin.server.loopback import HOSTS, sparing_loopback


def test_what_was_spared_stays_so() -> None:
    environ = {"NO_PROXY": "internal.example, 127.0.0.1"}
    environ |= sparing_loopback(environ)
    assert environ["no_proxy"] == environ["NO_PROXY"]
    assert environ["no_proxy"].split(",")[:2] == ["internal.example", "127.0.0.1"]
    before = dict(environ)
    assert environ | sparing_loopback(environ) == before


def test_flowers_client_goes_straight_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"https_proxy": "http://127.0.0.1:9"}
    environ |= sparing_loopback(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        for host in HOSTS:
            shown = f"[{host}]" if ":" in host else host
            way = client._transport_for_url(httpx.URL(f"https://{shown}:1"))
            assert way is client._transport
        assert client._transport_for_url(httpx.URL("https://far.example")) is not client._transport

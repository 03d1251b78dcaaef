"""The way to the aggregator: who decides on a proxy, and that it is gone through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.route import route_to
from gobelin.client.service import Connection, fetch_authority
from gobelin.shared.certificates import invited as certificate
from gobelin.shared.errors import ConfigError, ProxyError
from gobelin.shared.keys import private_pem
from tests.faults.wire import Wire, echoing
from tests.office import found_places, invited, serving, until

HOST = "aggregator.example:9092"
PROXY = "http://proxy.example:3128"


@pytest.fixture
def echo() -> Iterator[str]:
    with echoing() as address:
        yield address


def told(address: str, stated: str | None = None, **environ: str) -> str:
    return route_to(address, stated, environ).proxy


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy"])
def test_the_environment_names_a_proxy_in_either_case(name: str) -> None:
    assert told(HOST, **{name: PROXY}) == PROXY


def test_what_node_toml_says_goes_before_the_environment() -> None:
    assert told(HOST, "http://other:1", https_proxy=PROXY) == "http://other:1"
    assert told(HOST, "", https_proxy=PROXY) == ""


def test_grpcs_own_variable_goes_before_the_others() -> None:
    assert told(HOST, http_proxy="http://a:1", https_proxy="http://b:1", grpc_proxy=PROXY) == PROXY


@pytest.mark.parametrize(
    ("entry", "spared"),
    [
        ("*", True),
        ("example", True),
        (".example", True),
        ("aggregator.example", True),
        ("aggregator.example:9092", True),
        ("aggregator.example:9093", False),
        ("other.example, aggregator.example", True),
        ("gregator.example", False),
    ],
)
def test_no_proxy_spares_hosts_and_all_below_them(entry: str, spared: bool) -> None:
    assert (told(HOST, https_proxy=PROXY, no_proxy=entry) == "") == spared


def test_no_proxy_spares_networks() -> None:
    assert told("10.1.2.3:9092", https_proxy=PROXY, NO_PROXY="10.0.0.0/8") == ""
    assert told("11.1.2.3:9092", https_proxy=PROXY, NO_PROXY="10.0.0.0/8") == PROXY


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine() -> None:
    assert told("127.0.0.1:9092", https_proxy=PROXY) == ""
    assert told("127.0.0.1:9092", PROXY) == PROXY


@pytest.mark.parametrize("proxy", ["socks5://host:1080", "https://host:1", "http://", "http://h:x"])
def test_what_is_no_http_proxy_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(ConfigError, match="no HTTP proxy") as caught:
        route_to(HOST, proxy.replace("://", "://user:secret@"))
    assert "secret" not in str(caught.value)


def test_what_an_operator_sees_has_no_password() -> None:
    assert "secret" not in str(route_to(HOST, "http://user:secret@proxy:1"))


@pytest.mark.parametrize("login", ["", "user:p%40ss"])
def test_a_connection_goes_through_the_proxy(echo: str, login: str) -> None:
    with Wire(http=True, login=login.replace("%40", "@")) as proxy:
        route = route_to(echo, f"http://{login + '@' if login else ''}{proxy.address}")
        with route.connect(echo, 10) as end:
            end.sendall(b"hello")
            assert end.recv(100) == b"hello"
        assert proxy.traffic.asked == [echo]


def test_a_proxy_that_wants_a_login_is_told_apart(echo: str) -> None:
    with (
        Wire(http=True, login="user:secret") as proxy,
        pytest.raises(ProxyError, match="407") as caught,
    ):
        route_to(echo, f"http://{proxy.address}").connect(echo, 10)
    assert "user:password@" in caught.value.remedy


def test_our_service_is_called_through_a_proxy(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):  # an aggregator's own processes spare loopback
        monkeypatch.delenv(name, raising=False)
    places = found_places(tmp_path_factory.mktemp("office") / "aggregator")
    invite, ledger = invited(places), EgressLedger(places.folder / "egress.jsonl")
    key, shown = private_pem(invite.key), certificate(invite.key, invite.id)
    with serving(places), Wire(http=True, login="user:secret") as proxy:
        way = f"http://user:secret@{proxy.address}"
        until(lambda: straight(invite.service))
        reply = fetch_authority(invite.service, invite.ca_pin, key, shown, ledger, way)
        with Connection(invite.service, reply.ca_pem, key, shown, ledger, way) as service:
            assert abs(service.clock().ahead_s) < 60
        assert set(proxy.traffic.asked) == {invite.service}
        assert len(proxy.traffic.asked) >= 3  # a look at the certificate, and two connections


def straight(address: str) -> bool:
    try:
        route_to(address, "").connect(address, 1).close()
    except OSError:
        return False
    return True

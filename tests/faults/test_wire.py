"""The bad network itself: it is as bad as it says, and no worse."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gobelin.shared.address import parse_address
from tests.faults.wire import Faults, Wire, echoing


@pytest.fixture
def echo() -> Iterator[str]:
    with echoing() as address:
        yield address


def say(wire: Wire, data: bytes, timeout_s: float = 10.0) -> bytes:
    with socket.create_connection(parse_address(wire.address), timeout_s) as end:
        end.sendall(data)
        heard = b""
        while len(heard) < len(data):
            more = end.recv(1 << 16)
            if not more:
                break
            heard += more
        return heard


def test_all_passes_and_is_counted(echo: str) -> None:
    with Wire(echo) as wire:
        assert say(wire, b"x" * 10_000) == b"x" * 10_000
        assert (wire.traffic.up, wire.traffic.down) == (10_000, 10_000)


def test_a_share_of_connections_is_reset_and_always_the_same_ones(echo: str) -> None:
    outcomes = []
    for _ in range(2):
        with Wire(echo, Faults(reset_share=0.5, reset_within=100), seed=4) as wire:
            found = []
            for _ in range(12):
                try:
                    found.append(say(wire, b"x" * 200) == b"x" * 200)
                except ConnectionError:
                    found.append(False)
            outcomes.append(found)
            assert wire.traffic.resets == found.count(False)
    assert outcomes[0] == outcomes[1]
    assert 0 < outcomes[0].count(False) < 12


def test_a_partition_lets_nothing_through_until_it_heals(echo: str) -> None:
    with Wire(echo) as wire:
        wire.partition()
        with pytest.raises(TimeoutError):
            say(wire, b"x", 0.2)
        wire.heal()
        assert say(wire, b"x") == b"x"


def test_a_half_open_connection_swallows_what_is_sent(echo: str) -> None:
    with Wire(echo, Faults(silent_after=0)) as wire, pytest.raises(TimeoutError):
        say(wire, b"x", 0.2)


def test_a_rate_holds_all_connections_back(echo: str) -> None:
    with Wire(echo, Faults(bytes_per_second=100)) as wire:
        with pytest.raises(TimeoutError):
            say(wire, b"x" * 100_000, 0.3)
        assert wire.traffic.down < 100_000

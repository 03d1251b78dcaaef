"""Federations over bad networks: the same consensus to the bit, however bad."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from examples.loopback import Loopback
from gobelin.server.home import AggregatorHome
from gobelin.shared.checkpoint import read_checkpoint
from tests.faults.wire import Faults, Wire
from tests.federation.test_loopback import computed_here, federation

WAIT_S = 240.0


def behind(net: Loopback, member: str, wire: Wire) -> None:
    """Have a node reach the aggregator over a wire."""
    _set(net, member, "aggregator", wire.address)


def _set(net: Loopback, member: str, key: str, value: str) -> None:
    file = net.node_home(member) / "node.toml"
    file.write_text(re.sub(rf'^{key} = ".*"', f'{key} = "{value}"', file.read_text(), flags=re.M))


def address(net: Loopback) -> str:
    network = AggregatorHome(net.aggregator_home).settings().network
    return f"{network.host}:{network.port}"


@pytest.mark.slow
def test_a_third_of_all_connections_reset_gives_the_same_digest(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=4) as net:
        net.found()
        faults = Faults(reset_share=0.34, reset_within=60_000, latency_s=0.005, life=40_000)
        with Wire(address(net), faults, seed=2) as wire:
            for member in net.members:
                behind(net, member, wire)
            net.start()
            net.wait()
            assert wire.traffic.resets > 0
        vector = read_checkpoint(net.release).vector
        assert vector.digest == computed_here(dict(net.members), 4, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("login", ["", "user:secret"])
def test_a_federation_through_an_http_proxy(tmp_path: Path, login: str) -> None:
    with federation(tmp_path, rounds=1) as net, Wire(http=True, login=login) as proxy:
        net.found()
        shown = f"http://{login + '@' if login else ''}{proxy.address}"
        for member in net.members:
            file = net.node_home(member) / "node.toml"
            network = f'[network]\nproxy = "{shown}"\n'
            file.write_text(file.read_text().replace("[network]\n", network))
        net.start()
        net.wait()
        assert set(proxy.traffic.asked) == {address(net)}
        vector = read_checkpoint(net.release).vector
        assert vector.digest == computed_here(dict(net.members), 1, "fp32")
        assert "secret" not in net.log("north")


@pytest.mark.slow
def test_a_node_that_slept_is_back_by_itself(tmp_path: Path) -> None:
    """Asleep for longer than heartbeats are waited for; the others' rounds go on without it."""
    with federation(tmp_path, rounds=6) as net:
        net.found()
        home = AggregatorHome(net.aggregator_home)
        text = home.settings_file.read_text()
        text = re.sub(r"(?m)^quorum = .*$", "quorum = 0.5\ngrace_s = 2.0", text)
        home.settings_file.write_text(text)
        net.start()
        net.wait_for("round_sealed", 1, WAIT_S)
        north = net.processes["north"]
        north.send_signal(signal.SIGSTOP)
        net.wait_for("round_sealed", 3, WAIT_S)
        north.send_signal(signal.SIGCONT)
        net.wait()
        lately = [row["node"] for row in net.events("contribution") if row["round"] > 3]
        assert "north" in lately or "north" in [row["node"] for row in net.events("late")]
        assert "Traceback" not in net.log("north")


@pytest.mark.slow
def test_a_partition_that_heals_costs_no_contribution(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=2) as net:
        net.found()
        with Wire(address(net)) as wire:
            behind(net, "north", wire)
            net.start()
            net.wait_for("round_sealed", 1, WAIT_S)
            wire.partition()
            time.sleep(25)  # longer than the SuperLink waits for heartbeats
            wire.heal()
            net.wait()
        vector = read_checkpoint(net.release).vector
        assert vector.digest == computed_here(dict(net.members), 2, "fp32")

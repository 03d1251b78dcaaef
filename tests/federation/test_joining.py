"""Joining with real processes: an invite, one command, and the node's contributions count."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from examples.loopback import GOBELIN, Loopback, gobelin
from gobelin.client.home import NodeHome
from gobelin.client.node_seed import node_seed
from gobelin.protocols.messages import RoundPlan
from gobelin.server.home import AggregatorHome
from gobelin.shared.checkpoint import read_checkpoint
from tests.federation.test_loopback import computed_here, private_images

OUTER = ("--outer", "nesterov", "--outer-lr", "0.7", "--outer-momentum", "0.9")
MEMBERS = ("north", "south")
MANY = 1000  # rounds: the federation outlives the test


def test_invite_join_run_and_what_the_node_sends_counts_until_it_is_revoked(
    tmp_path: Path,
) -> None:
    with Loopback(tmp_path, {}, rounds=MANY, local_steps=3, seed=7) as net:
        net.found()
        net.start_aggregator()
        data = private_images(tmp_path, "north", 0)
        said = gobelin("node", "join", invite(net, "north"), *at(net, "north"), "--data", data)
        assert "Node 'north' of 'north' has joined 'loopback'" in said
        node = net.start_node("north")  # the third command, after pip install and join
        assert net.wait_for("contribution")["round"] == 1
        for setting in ("port", "service_port"):  # both are open by now
            assert refuses_tls_1_2(AggregatorHome(net.aggregator_home), setting)
        net.wait_for("round_sealed")
        gobelin("aggregator", "revoke", "north", "--home", net.aggregator_home)
        del net.processes["north"]
        assert node.wait(60) == 33
        assert "this node's key" in net.log("north")  # no longer accepted, or not known any more
        refused = run("node", "roster", *at(net, "north"))
        assert (refused.returncode, "not on the roster" in refused.stderr) == (44, True)
        assert "Traceback" not in net.log("aggregator") + net.log("north")


@pytest.mark.slow
def test_nodes_that_joined_end_at_the_digest_of_the_same_rounds_in_one_process(
    tmp_path: Path,
) -> None:
    with Loopback(tmp_path, {}, rounds=2, local_steps=3, seed=7, options=OUTER) as net:
        net.found()
        net.members = {name: private_images(tmp_path, name, i) for i, name in enumerate(MEMBERS)}
        invites = {name: invite(net, name) for name in MEMBERS}
        net.start_aggregator()
        for name, data in net.members.items():
            gobelin("node", "join", invites[name], *at(net, name), "--data", data, "--threads", "1")
        for name in MEMBERS:
            net.start_node(name)
        net.wait()
        vector = read_checkpoint(net.release).vector
        seeds = {name: private_seed(NodeHome(net.node_home(name))) for name in MEMBERS}
        assert vector.digest == computed_here(dict(net.members), 2, "fp32", node_seeds=seeds)
        assert vector.digest != computed_here(dict(net.members), 2, "fp32")  # by the plan alone


def private_seed(home: NodeHome) -> int:
    """What only who has the home can know: the order of its data."""
    return node_seed(home, RoundPlan.from_bytes(home.plan_file.read_bytes()))


def refuses_tls_1_2(home: AggregatorHome, setting: str) -> bool:
    """Whether a port closes the handshake of a client that knows no later version."""
    network = home.settings().network
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((network.host, getattr(network, setting)), timeout=30) as raw:
        try:
            context.wrap_socket(raw).close()
        except (ssl.SSLError, ConnectionError):
            return True
    return False


def invite(net: Loopback, member: str) -> str:
    """An invite that admits whoever shows it."""
    options = ("--member", member, "--pre-approved", "--home", net.aggregator_home, "--json")
    return str(json.loads(gobelin("aggregator", "invite", *options))["invite"])


def at(net: Loopback, member: str) -> tuple[str, Path]:
    return ("--home", net.node_home(member))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GOBELIN, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

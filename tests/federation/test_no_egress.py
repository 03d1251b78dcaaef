"""Nothing leaves a node but what its egress ledger says, to its aggregator alone.

A real node against a real aggregator, with canaries in its paths, file names, labels and pixels.
What gRPC serializes is written down by a guard inside the node's process, what goes through its
sockets by strace, where there is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from PIL import Image

from examples.loopback import GOBELIN, Loopback, gobelin
from gobelin.client.egress_ledger import EgressLedger, total
from gobelin.client.home import NodeHome
from gobelin.client.metrics import FAMILIES, labels_of
from gobelin.client.observer import Observer
from gobelin.protocols.messages import METRICS
from gobelin.server.superlink import MOST_OF_REQUEST
from gobelin.shared.address import parse_address
from gobelin.shared.files import read_json
from gobelin.shared.metrics import Exporter

GUARD = Path(__file__).parent / "guard"
FOLDER, FILE, LABEL, PIXELS = (f"CANARY{what}7f3a91" for what in ("folder", "file", "label", "px"))
CANARIES = [word.encode() for word in (FOLDER, FILE, LABEL, PIXELS)]
SENDS = "connect,sendto,sendmsg,sendmmsg,write,writev"
TCP = re.compile(r"^(?:sendto|sendmsg|sendmmsg|write|writev)\(\d+<TCP.*= (\d+)$")
CONNECT = re.compile(r"^connect\(.*sin6?_port=htons\((\d+)\).*inet_(?:addr|pton)\((.*?)\)")
OVERHEAD = 2000  # bytes of TLS and HTTP/2 a request at most: its headers are signed anew each time
HANDSHAKES = 20_000


@dataclass(frozen=True)
class Watched:
    """What is known of the watched node after its last round."""

    net: Loopback
    guard: Path
    traces: list[str]  # lines of strace, or none
    refused: grpc.StatusCode  # what a stranger was answered who sent the aggregator too much

    @property
    def home(self) -> Path:
        return self.net.node_home("north")

    @property
    def requests(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted(self.guard.glob("request-*"))]

    def records(self) -> list[dict[str, Any]]:
        return EgressLedger(NodeHome(self.home).egress_file).records()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two rounds of a federation of one member, whose node is watched."""
    folder = tmp_path_factory.mktemp("watched")
    members = {"north": canaries(folder / FOLDER)}
    options = ("--codec", "int8", "--cross-node")
    guard = folder / "guard"
    guard.mkdir()
    with Loopback(folder / "net", members, local_steps=2, options=options) as net:
        net.found()
        net.start_aggregator()
        net.wait_for("waiting")
        refused = send_much(net)
        joins(net, guard)
        net.processes["north"] = start(net, guard, "run")
        told = start(net, guard, "roster").wait()  # while it runs
        assert told == 0, net.log("north")
        net.wait()
        traces = [line for file in guard.glob("trace-*") for line in file.read_text().splitlines()]
        yield Watched(net, guard, traces, refused)


def send_much(net: Loopback) -> grpc.StatusCode:
    """A stranger's request of more bytes than any honest one has."""
    home = NodeHome(net.node_home("north"))
    tls = grpc.ssl_channel_credentials(home.ca_file.read_bytes())
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(home.settings().aggregator, tls, options) as channel:
        request = ActivateNodeRequest(public_key=bytes(MOST_OF_REQUEST))
        with pytest.raises(grpc.RpcError) as caught:
            FleetStub(channel).ActivateNode(request, wait_for_ready=True, timeout=60)
    return caught.value.code()  # type: ignore[attr-defined, no-any-return]


def canaries(folder: Path) -> Path:
    """Images with a canary in every place that could leak: path, file name, label, pixels."""
    rng = np.random.default_rng(5)
    for i in range(40):
        pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
        pixels[3, : len(PIXELS)] = np.frombuffer(PIXELS.encode(), np.uint8)
        place = folder / f"{LABEL}-{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{FILE}-{i}.png")
    return folder


def strace() -> list[str]:
    """The command that runs another under strace; nothing where it may not trace."""
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-o", os.devnull, "true"], check=False).returncode:
        return []
    return [found, "-ff", "--seccomp-bpf", "-yy", "-s", "0", "-e", f"trace={SENDS}"]


def joins(net: Loopback, guard: Path) -> None:
    """The node calls our service, too: it enrols, waits to be approved, and has its certificate."""
    home = ("--home", net.aggregator_home)
    invite = gobelin("aggregator", "invite", *home, "--member", "north", "--pre-approved")
    line = next(word for word in invite.split() if word.startswith("gobelin1-"))
    (net.folder / "invite").write_text(line)
    data = net.folder.parent / FOLDER
    told = ("join", "--invite-file", net.folder / "invite", "--data", data)
    assert start(net, guard, *told).wait() == 0, net.log("north")


def start(net: Loopback, guard: Path, *command: str | Path) -> subprocess.Popen[bytes]:
    """A command of the node's, watched."""
    before = [*strace(), "-o", str(guard / f"trace-{command[0]}")] if strace() else []
    paths = [str(GUARD), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "GOBELIN_GUARD": str(guard),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (net.folder / "north.log").open("ab") as log:
        return subprocess.Popen(
            [*before, GOBELIN, "node", *command, "--home", net.node_home("north")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def test_a_strangers_request_is_not_read_when_it_is_too_large(watched: Watched) -> None:
    assert watched.refused is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_no_canary_is_in_what_left_or_in_logs_or_with_the_aggregator(watched: Watched) -> None:
    net = watched.net
    assert len(watched.requests) > 20
    assert sum(map(len, watched.requests)) > 2 * 1000  # two contributions among them
    kept = [file for file in net.aggregator_home.rglob("*") if file.is_file()]
    logs = [net.folder / f"{name}.log" for name in net.processes]
    status = net.node_home("north") / "status.json"
    ledger = net.node_home("north") / "egress.jsonl"
    log = NodeHome(net.node_home("north")).log_file
    watching = Exporter(FAMILIES, labels_of).text(Observer(NodeHome(log.parents[1])).look())
    assert b"gobelin_node_egress_wire_bytes_total" in watching
    for canary in CANARIES:
        assert canary not in watching
        assert not any(canary in request for request in watched.requests)
        for file in [*kept, *logs, log, status, ledger]:
            assert canary not in file.read_bytes(), file
    assert FOLDER.encode() in (net.node_home("north") / "node.toml").read_bytes()  # they were there


def test_every_byte_that_left_is_on_the_egress_ledger(watched: Watched) -> None:
    told = json.loads(gobelin("node", "egress", "--home", watched.home, "--json"))
    rows, totals = told["records"], told["totals"]
    assert rows == watched.records()
    assert totals["wire_bytes"] == sum(map(len, watched.requests))
    assert totals["requests"] == len(watched.requests)
    made = [row for row in rows if row["kind"] == "leaving" and row["purpose"] == "contribution"]
    assert [(row["round"], row["codec"]) for row in made] == [(1, "int8"), (2, "int8")]
    counted = [row for row in watched.net.events("contribution") if row["node"] == "north"]
    assert [row["payload_bytes"] for row in made] == [row["bytes"] for row in counted]
    assert [bool(row["moments_bytes"]) for row in made] == [True, False]
    assert all(set(row["metrics"]) <= METRICS for row in made)


def test_calls_of_our_service_are_on_the_egress_ledger_one_by_one(watched: Watched) -> None:
    calls = [row for row in watched.records() if row["kind"] == "call"]
    assert {row["method"] for row in calls} >= {"Authority", "Enrol", "Roster"}
    sent = {hashlib.sha256(request).hexdigest() for request in watched.requests}
    assert all(row["digest"] in sent for row in calls)


def test_python_itself_contacts_the_aggregator_alone_and_starts_no_program(
    watched: Watched,
) -> None:
    host, ports = addresses(watched)
    lines = (watched.guard / "audit").read_text().splitlines()
    assert any(line.startswith("socket.connect") for line in lines)
    for line in lines:
        event, _, said = line.partition(" ")
        assert event in ("socket.connect", "socket.getaddrinfo"), line
        assert host in said, line
        assert any(str(port) in said for port in ports), line


def test_its_sockets_go_to_the_aggregator_alone_and_carry_no_more_than_that(
    watched: Watched,
) -> None:
    if not watched.traces:
        pytest.skip("strace is not here, or may not trace")
    host, ports = addresses(watched)
    went = {match.groups() for line in watched.traces if (match := CONNECT.match(line))}
    assert {int(number) for number, _ in went} == ports
    assert all(host in place for _, place in went), went
    sent = sum(int(match[1]) for line in watched.traces if (match := TCP.match(line)))
    totals = total(watched.records())
    assert totals.wire_bytes <= sent
    assert sent <= totals.wire_bytes + OVERHEAD * totals.requests + HANDSHAKES


def addresses(watched: Watched) -> tuple[str, set[int]]:
    """The aggregator's host, and its ports: of rounds, and of our service."""
    home = NodeHome(watched.home)
    host, port = parse_address(home.settings().aggregator)
    _, service = parse_address(read_json(home.enrolment_file)["service"])
    return host, {port, service}

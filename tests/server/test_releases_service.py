"""Releases over our service: real TLS, real streams, a kill in the middle."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from gobelin.client.egress_ledger import EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.membership import Membership
from gobelin.client.release_cli import app
from gobelin.client.release_source import ServiceSource
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.enrolment import REVOKE
from gobelin.server import releases
from gobelin.server.places import Places
from gobelin.server.releases import ReleaseDesk
from gobelin.shared.errors import EnrolmentError, FetchError, UnreachableError
from gobelin.shared.shelf import pieces
from gobelin.shared.signing import SigningKey
from tests.office import found_places, invited, join, serving, until
from tests.releases import write_release

RUN = "from gobelin.client.release_cli import app; app(standalone_mode=False)"
NAME = "release-00004"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = found_places(tmp_path_factory.mktemp("office") / "home")
    key = SigningKey.load(made.signing_key_file)
    with serving(made):
        for number in (2, 4):
            write_release(made.releases, number, key)
        yield made


@pytest.fixture
def home(places: Places, tmp_path: Path) -> NodeHome:
    """A node of a member of its own."""
    return join(tmp_path / "node", invited(places, tmp_path.name)).home


def run(home: NodeHome, *arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments), "--home", str(home.folder)])


def test_a_node_lists_gets_and_verifies_what_the_aggregator_has(
    home: NodeHome, places: Places
) -> None:
    rows = json.loads(run(home, "list", "--json").stdout)["releases"]
    assert [(row["round"], row["cached"]) for row in rows] == [(4, False), (2, False)]
    got = json.loads(run(home, "get", "--json").stdout)
    assert (got["round"], got["fetched"]) == (4, rows[0]["bytes"])
    for path in (places.releases / NAME).iterdir():
        assert (home.releases / NAME / path.name).read_bytes() == path.read_bytes()
    assert json.loads(run(home, "get", "--json").stdout)["fetched"] == 0
    assert run(home, "verify").exit_code == 0
    calls = [row for row in EgressLedger(home.egress_file).records() if row["kind"] == "call"]
    asked = [row["requests"] for row in calls]  # streams, too
    assert {"Releases": 1} in asked
    assert asked.count({"ReleaseFile": 1}) == len(list((home.releases / NAME).iterdir()))


def test_a_stream_goes_on_from_an_offset(home: NodeHome, places: Places) -> None:
    whole = (places.releases / NAME / "model.safetensors").read_bytes()
    with Membership(home).connected() as service:
        for offset in (0, 5, len(whole) - 1, len(whole), len(whole) + 9):
            request = pb.ReleaseFileRequest(release=NAME, file="model.safetensors", offset=offset)
            got = b"".join(chunk.data for chunk in service.stream("ReleaseFile", request, 20))
            assert got == whole[offset:]


def test_no_other_file_of_the_aggregator_is_given(home: NodeHome) -> None:
    asked = [(NAME, "none"), (NAME, "../../tls/signing.key"), ("..", "federation.toml")]
    with Membership(home).connected() as service:
        for release, file in [*asked, ("", "model.sig"), (NAME, "")]:
            request = pb.ReleaseFileRequest(release=release, file=file)
            with pytest.raises(FetchError, match="no such file"):
                list(service.stream("ReleaseFile", request, 20))


def test_only_nodes_on_the_roster_are_answered(home: NodeHome, places: Places) -> None:
    node = Membership(home)._facts["node"]
    with places.book.change(places.signing_key_file) as change:
        change.make(REVOKE, change.node(node))
    assert isinstance(run(home, "list").exception, EnrolmentError)
    request = pb.ReleaseFileRequest(release=NAME, file="model.sig")
    with Membership(home).connected() as service, pytest.raises(EnrolmentError):
        list(service.stream("ReleaseFile", request, 20))


def test_a_get_that_is_killed_goes_on_where_it_was(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any) -> Iterator[bytes]:
        for data in pieces(*given, size=2048):
            time.sleep(0.02)
            yield data

    part = "*/model.safetensors.part"
    with monkeypatch.context() as patch:
        patch.setattr(releases, "pieces", slowly)
        command = [sys.executable, "-c", RUN, "get", "--home", str(home.folder)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            until(lambda: any(path.stat().st_size for path in home.fetching.glob(part)))
            process.send_signal(signal.SIGKILL)
    (left,) = home.fetching.glob(part)
    there = sum(path.stat().st_size for path in left.parent.iterdir())
    assert left.stat().st_size > 0
    assert not home.releases.exists()
    with monkeypatch.context() as patch:  # a service that ends streams is asked again
        patch.setattr(releases, "pieces", lambda *given: itertools.islice(pieces(*given, 4096), 3))
        got = json.loads(run(home, "get", "--json").stdout)
    assert got["fetched"] == ServiceSource(home).releases()[0].size - there


class Call:
    """Stands in for gRPC's context of a call; its end is the test's."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.ends: list[Any] = []

    def cancel(self) -> None:
        self.cancelled.set()

    def add_callback(self, end: Any) -> bool:
        self.ends.append(end)
        return True

    def abort(self, code: grpc.StatusCode, what: str) -> None:
        raise UnreachableError(f"{code.name} {what}")

    def end(self) -> None:
        for end in self.ends:
            end()


def test_streams_are_few_one_a_node_and_end(places: Places) -> None:
    desk = ReleaseDesk(places.releases, streams=2, stream_s=0.05)
    request = pb.ReleaseFileRequest(release=NAME, file="model.sig")

    def stream(node: str) -> Call:
        call = Call()
        assert next(desk.stream(node, request, call)).data  # type: ignore[arg-type]
        return call

    first, second = stream("a"), stream("b")
    with pytest.raises(UnreachableError, match="UNAVAILABLE others"):
        stream("c")
    third = stream("a")  # its own: the one before ends
    assert first.cancelled.is_set()
    first.end()
    with pytest.raises(UnreachableError, match="UNAVAILABLE"):
        stream("c")
    second.end()
    assert stream("c")
    assert third.cancelled.wait(10)  # after a while it is ended

"""The supervisor takes no port that is taken, and gives up on a child that keeps dying."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from gobelin.server import supervisor
from gobelin.server.children import (
    Ports,
    service_command,
    superexec_command,
    superlink_command,
)
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.supervisor import RESTARTS, Child, Supervisor, free_port, require_free
from gobelin.shared.errors import EngineError, PortInUseError
from gobelin.shared.locks import sole_owner
from gobelin.shared.logs import kept
from tests.faults.inject.process_names import process_name
from tests.office import listen_on


@pytest.fixture
def home(tmp_path: Path) -> AggregatorHome:
    place = AggregatorHome(tmp_path)
    place.flower.mkdir()
    return place


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def wait_until_dead(child: Child) -> None:
    give_up = time.monotonic() + 30
    while child.pid is not None:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def script(home: AggregatorHome, code: str) -> Child:
    return Child("script", [sys.executable, "-S", "-c", code], home)


def said(child: Child) -> list[str]:
    """What the log has of a child."""
    rows = map(json.loads, child.log.read_text().splitlines())
    return [row["text"] for row in rows if row["role"] == child.name]


def test_a_taken_port_is_refused_by_its_number(taken: int) -> None:
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{taken}") as caught:
        require_free("127.0.0.1", taken)
    assert "federation.toml" in caught.value.remedy
    assert caught.value.exit_code == 31


def test_a_free_port_is_left_free() -> None:
    port = free_port()
    for _ in range(2):
        require_free("127.0.0.1", port)


def test_an_aggregator_on_a_taken_port_starts_nothing(tmp_path: Path, taken: int) -> None:
    found(tmp_path / "home", Charter("fed", "toy", f"127.0.0.1:{taken}"))
    with pytest.raises(PortInUseError):
        Supervisor(AggregatorHome(tmp_path / "home"), lambda event: None)
    assert not (tmp_path / "home" / "flower").exists()


def test_the_superlink_listens_where_it_is_told_and_not_where_nodes_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    home, told = AggregatorHome(tmp_path / "home"), list[Ports]()
    found(home.folder, Charter("fed", "toy", "fed.invalid:9092"))  # a name of no machine
    with pytest.raises(PortInUseError, match=r"fed\.invalid") as nowhere:
        Supervisor(home, lambda event: None)
    assert "network.listen" in nowhere.value.remedy
    listen_on(home, "127.0.0.1", port=(port := free_port()))
    command = superlink_command

    def watched(home: AggregatorHome, ports: Ports) -> list[str]:
        told.append(ports)
        return command(home, ports)

    monkeypatch.setattr(supervisor, "superlink_command", watched)
    Supervisor(home, lambda event: None)
    assert [ports.fleet for ports in told] == [f"127.0.0.1:{port}"]
    listen_on(home, "127.0.0.1", service_port=taken)
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{taken}"):
        Supervisor(home, lambda event: None)


def test_a_child_that_exits_at_once_is_started_five_times_and_no_more(
    home: AggregatorHome,
) -> None:
    child = Child("false", [shutil.which("false") or "false"], home)
    for _ in range(RESTARTS):
        child.start()
        wait_until_dead(child)
    with pytest.raises(EngineError, match=f"false died {RESTARTS} times") as caught:
        child.start()
    assert str(child.log) in caught.value.remedy
    assert child.pid is None


def test_deaths_of_long_ago_are_forgotten(
    home: AggregatorHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    child = Child("false", [shutil.which("false") or "false"], home)
    for _ in range(RESTARTS + 3):
        with monkeypatch.context() as patch:
            patch.setattr(supervisor.time, "monotonic", lambda: now[0])
            child.start()
        wait_until_dead(child)
        now[0] += supervisor.RESTART_WINDOW_S / 2


def test_measurements_know_the_children_by_their_command_lines(home: AggregatorHome) -> None:
    ports = Ports("127.0.0.1:9092", 9091)
    commands = {
        "superlink": superlink_command(home, ports),
        "superexec": superexec_command(home, ports),
        "service": service_command(home),
    }
    for name, command in commands.items():
        assert process_name(command[1:] if command[0] == sys.executable else command) == name


def test_a_serverapp_that_let_go_of_the_rounds_is_dead_after_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    place = AggregatorHome(tmp_path / "home")
    watching = Supervisor(place, lambda event: None)
    now = [0.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    assert not watching._serverapp_died()  # not at work yet
    with sole_owner(place.rounds):
        now[0] += 1000
        assert not watching._serverapp_died()
    now[0] += supervisor.GONE_S / 2
    assert not watching._serverapp_died()  # it may have ended well
    now[0] += supervisor.GONE_S
    assert watching._serverapp_died()


def test_a_serverapp_is_dead_at_once_when_its_superexec_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    told: list[str] = []
    watching = Supervisor(
        AggregatorHome(tmp_path / "home"), lambda event: told.append(event["process"])
    )
    monkeypatch.setattr(Child, "start", lambda child: None)
    monkeypatch.setattr(Child, "pid", property(lambda child: 1 if child.name in alive else None))
    alive = {"superexec", "service"}
    watching._revive()
    assert not watching._serverapp_died()  # a SuperLink may come and go
    alive = {"superlink", "service"}
    watching._revive()
    assert watching._serverapp_died()
    assert told == ["superlink", "superexec"]


def test_a_service_that_died_is_started_again_and_the_rounds_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    told: list[str] = []
    watching = Supervisor(
        AggregatorHome(tmp_path / "home"), lambda event: told.append(event["process"])
    )
    started: list[str] = []
    monkeypatch.setattr(Child, "start", lambda child: started.append(child.name))
    monkeypatch.setattr(
        Child, "pid", property(lambda child: None if child.name == "service" else 1)
    )
    watching._revive()
    assert started == told == ["service"]
    assert not watching._serverapp_died()


def test_the_services_port_must_be_free_too(tmp_path: Path, taken: int) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"), taken)
    with pytest.raises(PortInUseError, match=f"127.0.0.1:{taken}") as caught:
        Supervisor(AggregatorHome(tmp_path / "home"), lambda event: None)
    assert "network.service_port" in caught.value.remedy


def test_a_database_is_made_anew_until_a_superlink_has_answered_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    place = AggregatorHome(tmp_path / "home")
    watching = Supervisor(place, lambda event: None)
    place.flower.mkdir()
    database, log = place.flower / "link.db", place.flower / "superlink.log"
    log.touch()

    def make(child: Child) -> None:
        if child.name == "superlink" and not database.exists():
            database.write_text(f"made {len(made)}")
            made.append(child)

    made: list[Child] = []
    monkeypatch.setattr(Child, "start", make)
    monkeypatch.setattr(supervisor, "Control", lambda *_: SimpleNamespace(answer=lambda: None))
    for _ in range(2):
        watching._revive()
    with socket.create_server(("127.0.0.1", watching._ports.control)):
        watching._wait_ready()
    watching._revive()
    assert (len(made), database.read_text()) == (3, "made 2")
    assert log.exists()


def test_a_request_that_the_superlink_dies_over_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    watching = Supervisor(AggregatorHome(tmp_path / "home"), lambda event: None)
    alive = {"superlink", "superexec"}
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Child, "start", lambda child: alive.add(child.name))
    monkeypatch.setattr(Child, "pid", property(lambda child: 1 if child.name in alive else None))
    asked = 0

    def request() -> int:
        nonlocal asked
        asked += 1
        if asked < 3:
            alive.discard("superlink")
        if "superlink" not in alive:
            raise httpx.RemoteProtocolError("disconnected")
        return 7

    assert watching._insist(request) == 7
    assert asked == 3


def test_a_superlink_that_refuses_for_a_minute_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    watching = Supervisor(AggregatorHome(tmp_path / "home"), lambda event: None)
    now = [0.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Child, "pid", 1)

    def request() -> None:
        now[0] += 10
        raise httpx.ConnectError("refused")

    with pytest.raises(EngineError, match="ConnectError"):
        watching._insist(request)
    assert now[0] >= supervisor.READY_S


def test_what_a_child_prints_is_kept_over_restarts(home: AggregatorHome) -> None:
    child = script(home, "import sys; print('out'); print('err', file=sys.stderr)")
    with kept(child.log):
        for _ in range(2):
            child.start()
            wait_until_dead(child)
            child.stop()
    assert sorted(said(child)) == ["err", "err", "out", "out"]


def test_a_child_knows_its_home_and_phones_nobody(home: AggregatorHome) -> None:
    child = script(
        home,
        "import os; print(os.environ['GOBELIN_AGGREGATOR_HOME'], os.environ['FLWR_HOME'],"
        " os.environ['FLWR_TELEMETRY_ENABLED'])",
    )
    with kept(child.log):
        child.start()
        wait_until_dead(child)
        child.stop()
    assert said(child) == [f"{home.folder} {home.flower} 0"]


def test_a_child_is_stopped_by_asking(home: AggregatorHome) -> None:
    child = Child("sleep", [shutil.which("sleep") or "sleep", "600"], home)
    assert child.pid is None
    child.stop()  # not started: nothing to do
    child.start()
    assert child.pid is not None
    child.stop()
    assert child.pid is None


def test_a_child_that_will_not_go_is_ended(home: AggregatorHome) -> None:
    child = script(
        home,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " print('deaf', flush=True); time.sleep(600)",
    )
    with kept(child.log):
        child.start()
        give_up = time.monotonic() + 30
        while "deaf" not in child.log.read_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        child.stop(grace_s=0.1)
    assert child.pid is None


def test_who_watches_for_months_does_without_tensors() -> None:
    look = "import sys, gobelin.server.supervisor; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True)

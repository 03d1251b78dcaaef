"""The units are what systemd takes, keep a service in its place, and name what there is."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from gobelin.client import cli as node
from gobelin.server import cli as aggregator
from gobelin.shared import errors, notify
from gobelin.shared.locks import sole_owner
from manual.errors import kinds

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = 25  # of 100
BOTH = pytest.mark.parametrize("role", ["aggregator", "node"])


def line_of(role: str) -> str:
    return {"aggregator": "aggregator up", "node": "node run"}[role]


def unit(role: str) -> str:
    return (UNITS / f"gobelin-{role}@.service").read_text()


@BOTH
@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit_and_calls_it_well_hardened(tmp_path: Path, role: str) -> None:
    text = unit(role).replace("/opt/gobelin/bin/gobelin", sys.executable)
    (tmp_path / f"gobelin-{role}@.service").write_text(text)
    for words in (
        ["verify", "--man=no", f"./gobelin-{role}@site.service"],
        [
            *("security", "--offline=yes", f"--threshold={MOST_EXPOSED}"),
            f"./gobelin-{role}@.service",
        ],
    ):
        done = subprocess.run(
            [str(ANALYZE), *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-500:] + done.stderr
        assert "Unknown" not in done.stderr


@BOTH
def test_the_unit_runs_a_command_there_is(role: str) -> None:
    line = re.search(r"^ExecStart=/opt/gobelin/bin/gobelin (.*)$", unit(role), re.MULTILINE)
    assert line is not None
    group, *words = line[1].split()
    app = {"aggregator": aggregator.app, "node": node.app}[group]
    done = CliRunner().invoke(app, [words[0], "--help"])
    assert done.exit_code == 0
    assert all(word in done.output for word in words if word.startswith("--"))


@BOTH
def test_an_environment_file_may_ask_for_json(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOBELIN_LOG_FORMAT", "json")
    group, name = line_of(role).split()
    room = typer.main.get_command({"aggregator": aggregator.app, "node": node.app}[group])
    assert isinstance(room, click.Group)
    with room.commands[name].make_context(name, []) as context:
        assert context.params["log_format"] == "json"
    assert "EnvironmentFile=-/etc/gobelin/%i.env" in unit(role)


@BOTH
def test_of_all_homes_a_service_sees_its_own(role: str) -> None:
    lines = unit(role).splitlines()
    homes = [line for line in lines if "/var/lib/gobelin" in line and not line.startswith("#")]
    assert {line.split("=")[0]: line.split("=")[1].split(":")[0] for line in homes} == {
        "ExecStart": f"/opt/gobelin/bin/gobelin {line_of(role)} --home /var/lib/gobelin/%i",
        "TemporaryFileSystem": "/var/lib/gobelin",
        "BindPaths": "-/var/lib/gobelin/%i",
        "WorkingDirectory": "/var/lib/gobelin",
        "RequiresMountsFor": "/var/lib/gobelin/%i",
    }
    opens = ("StateDirectory", "ReadWritePaths", "CacheDirectory", "LogsDirectory")
    assert not [line for line in lines if line.startswith(opens)]


@BOTH
def test_the_exit_codes_that_end_a_service_are_those_of_errors(role: str) -> None:
    line = re.search(r"^RestartPreventExitStatus=(.*)$", unit(role), re.MULTILINE)
    assert line is not None
    lasting = {kind.exit_code for kind in kinds() if kind.lasting}
    assert list(map(int, line[1].split())) == sorted({click.UsageError.exit_code} | lasting)


def test_what_waiting_mends_ends_no_service() -> None:
    passing = (errors.EngineError, errors.InUseError, errors.MachineError, errors.PortInUseError)
    passing += (errors.RoundError, errors.SealingError, errors.UnknownNodeError)
    passing += (errors.ProxyError, errors.UnreachableError)
    assert not [kind for kind in passing if kind.lasting]


def test_a_service_without_its_home_ends_and_one_whose_home_is_in_use_comes_again(
    tmp_path: Path,
) -> None:
    for app, command in ((aggregator.app, "up"), (node.app, "run")):
        lost = CliRunner().invoke(app, [command, "--home", str(tmp_path / "gone")]).exception
        assert isinstance(lost, errors.GobelinError)
        assert lost.lasting
    with sole_owner(tmp_path), pytest.raises(errors.GobelinError) as busy, sole_owner(tmp_path):
        pytest.fail("two owners")
    assert not busy.value.lasting


def test_a_service_manager_hears_readiness_and_life_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(notify.time, "monotonic", lambda: now)
    monkeypatch.setattr(notify, "_last", 0.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.ready("here")
        notify.alive()
        notify.alive()
        now += 2
        notify.alive("busy")
        notify.stopping()
        heard = [manager.recv(200).decode() for _ in range(4)]
    assert heard == [
        "READY=1\nSTATUS=here",
        "WATCHDOG=1",
        "WATCHDOG=1\nSTATUS=busy",
        "STOPPING=1",
    ]


def test_the_newest_status_is_told_however_soon_it_comes_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, heard = 1000.0, []
    monkeypatch.setattr(notify.time, "monotonic", lambda: now)
    monkeypatch.setattr(notify, "_last", 0.0)
    monkeypatch.setattr(notify, "notify", lambda *lines: heard.append(lines))
    notify.alive("connection refused")
    now += 0.2
    notify.alive("connected")
    notify.alive("waiting for a round")
    now += 1.0
    notify.alive()
    now += 1.0
    notify.alive()
    assert heard == [
        ("WATCHDOG=1", "STATUS=connection refused"),
        ("WATCHDOG=1", "STATUS=waiting for a round"),
        ("WATCHDOG=1",),
    ]


def test_a_status_from_afar_tells_a_service_manager_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(notify, "_last", -1e9)
    monkeypatch.setattr(notify, "notify", lambda *lines: heard.extend(lines))
    notify.alive("paused: disks\nMAINPID=1")
    notify.ready("here\nSTOPPING=1")
    assert heard[1:] == ["STATUS=paused: disks MAINPID=1", "READY=1", "STATUS=here STOPPING=1"]
    assert not any("\n" in line for line in heard)


def test_a_node_tells_its_service_manager_what_it_does_in_every_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gobelin.client import status_file
    from gobelin.client.home import NodeStatus

    told: list[str] = []
    monkeypatch.setattr(status_file, "alive", told.append)

    class Place:
        status_file = tmp_path / "status.json"

    record = status_file.recording(Place(), lambda status: None)
    record(NodeStatus("waiting", note="connection refused"))
    record(NodeStatus("training", round=3, rounds=9, step=1, steps=6))
    assert told[0] == "waiting: connection refused"
    assert told[1].startswith("round 3/9, step 1/6")


def test_an_abstract_socket_and_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"gobelin-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    assert not notify.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.notify("READY=1")


def test_life_is_told_by_work_and_not_by_the_heartbeats_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gobelin.client import egress

    told: list[str] = []
    monkeypatch.setattr(egress, "alive", lambda: told.append("alive"))

    class Place:
        egress_file = tmp_path / "egress.jsonl"

    gate = egress.Egress(Place())
    gate.request("SendNodeHeartbeat", 10)
    assert not told
    gate.request("PullMessages", 10)
    assert told

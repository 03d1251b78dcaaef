"""The aggregator's doctor finds what will fail, and says what to do."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gobelin.server.doctor import checks
from gobelin.server.home import AggregatorHome
from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.checkup import run_checks
from gobelin.shared.doctor_cli import app
from gobelin.shared.locks import sole_owner
from gobelin.shared.settings import write_settings
from tests.office import found_places, listen_on, serving, until


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found_places(tmp_path_factory.mktemp("office") / "aggregator").folder


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> AggregatorHome:
    """A copy, to be broken."""
    shutil.copytree(founded, tmp_path / "aggregator")
    return AggregatorHome(tmp_path / "aggregator")


def verdict(home: AggregatorHome, name: str) -> tuple[str, str]:
    (row,) = run_checks([check for check in checks(home.folder) if check.name == name])
    if row.verdict in ("warn", "fail"):
        assert row.remedy, row
        assert row.code != "internal", row
    return row.verdict, row.code


def test_a_new_federation_is_well_but_not_up(founded: Path) -> None:
    rows = run_checks(checks(founded))
    assert {row.check: row.code for row in rows if row.verdict not in ("ok", "skip")} == {
        "processes": "not_up",
        "quorum": "no_members",
    }


def test_a_port_that_somebody_else_has_fails(home: AggregatorHome) -> None:
    network = home.settings().network
    with socket.create_server((network.host, network.port)):
        assert verdict(home, "port of rounds") == ("fail", "port_in_use")


def test_the_port_that_is_looked_at_is_the_one_that_is_listened_on(home: AggregatorHome) -> None:
    network = home.settings().network.model_copy(update={"host": "fed.invalid"})
    write_settings(home.settings_file, home.settings().model_copy(update={"network": network}))
    assert verdict(home, "port of rounds") == ("fail", "port_in_use")
    listen_on(home, "127.0.0.1")
    assert verdict(home, "port of rounds") == ("ok", "")
    listen_on(home, "0.0.0.0")
    with serving(home):
        until(lambda: answers(network.service_port))
        with sole_owner(home.folder):
            assert verdict(home, "port of the service") == ("ok", "")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_aggregator_that_is_up_and_silent_fails(home: AggregatorHome) -> None:
    with sole_owner(home.folder):
        assert verdict(home, "port of rounds") == ("fail", "silent")
        assert verdict(home, "processes") == ("warn", "no_rounds")


def test_a_certificate_that_is_not_for_the_host_fails(home: AggregatorHome) -> None:
    known = home.settings()
    network = known.network.model_copy(update={"host": "elsewhere.example"})
    write_settings(home.settings_file, known.model_copy(update={"network": network}))
    assert verdict(home, "certificate") == ("fail", "certificate")


def test_a_key_that_others_may_read_fails(home: AggregatorHome) -> None:
    (home.tls / "ca.key").chmod(0o640)
    assert verdict(home, "home") == ("fail", "home")


def test_a_clock_behind_the_last_event_fails(home: AggregatorHome) -> None:
    home.record({"event": "round_opened", "at": "2099-01-01T00:00:00+00:00"})
    assert verdict(home, "clock") == ("fail", "clock")


def test_a_damaged_checkpoint_fails(home: AggregatorHome) -> None:
    file = next(home.round_folder(0).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert verdict(home, "rounds") == ("fail", "checkpoint")


def test_a_quorum_that_the_roster_cannot_reach_fails(home: AggregatorHome) -> None:
    from gobelin.shared.keys import make_key, public_pem
    from gobelin.shared.signing import SigningKey

    key = public_pem(make_key().public_key()).decode()
    entry = NodeEntry("north", "north", key, SigningKey.generate().public)
    home.write_roster(Roster((entry,)))
    known = home.settings()
    rounds = known.rounds.model_copy(update={"min_members": 2})
    write_settings(home.settings_file, known.model_copy(update={"rounds": rounds}))
    assert verdict(home, "quorum") == ("fail", "quorum")


def test_a_probe_that_is_gone_fails(home: AggregatorHome, tmp_path: Path) -> None:
    known = home.settings()
    policy = known.policy.model_copy(update={"probe": tmp_path / "gone"})
    write_settings(home.settings_file, known.model_copy(update={"policy": policy}))
    assert verdict(home, "settings") == ("fail", "probe")


def test_the_command_knows_whose_home_it_is(founded: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--home", str(founded), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["role"]) == (0, "aggregator")

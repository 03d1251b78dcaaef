"""The node's doctor finds what will fail, and says what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gobelin.client import doctor as doctor_module
from gobelin.client.doctor import checks, checks_of_invite
from gobelin.client.home import NodeHome, NodeSettings
from gobelin.client.join import Joining
from gobelin.client.service import Clock, Connection
from gobelin.server.places import Places
from gobelin.shared.checkup import Row, failed, run_checks
from gobelin.shared.data.export import write_idx
from gobelin.shared.doctor_cli import app
from gobelin.shared.invite import Invite
from gobelin.shared.settings import write_settings
from tests.office import SECONDS, found_places, invited, serving


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (48, 1, 28, 28), dtype=np.uint8))
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder, images, torch.zeros(48, dtype=torch.int64))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Our service is up, and somebody listens where the rounds are."""
    places = found_places(tmp_path_factory.mktemp("office") / "aggregator")
    network = places.front().network
    with serving(places), socket.create_server((network.host, network.port)):
        yield places


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory, places: Places, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("node") / "home"
    folder.mkdir()
    invite = invited(places)

    def settle(name: str, member: str) -> NodeSettings:
        values = {"path": str(data)}
        return NodeSettings(member=member, node=name, aggregator=invite.fleet, data=values)

    Joining(NodeHome(folder), invite, "", lambda line: None).run(settle, SECONDS)
    return folder


@pytest.fixture
def home(joined: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    shutil.copytree(joined, tmp_path / "home")
    return tmp_path / "home"


def look(home: Path, *names: str) -> Mapping[str, Row]:
    """What some of the checks have found."""
    asked = [check for check in checks(home) if check.name in names]
    assert len(asked) == len(names)
    return {row.check: row for row in run_checks(asked)}


def verdict(home: Path, name: str) -> tuple[str, str]:
    row = look(home, name)[name]
    if row.verdict in ("warn", "fail"):
        assert row.remedy, row
        assert row.code != "internal", row
    return row.verdict, row.code


def test_a_node_that_has_joined_is_well(joined: Path) -> None:
    quick = run_checks(checks(joined, quick=True))
    assert {row.check: row for row in quick if row.verdict == "fail"}.keys() == {"tls pin"}
    assert {row.check for row in quick if row.verdict == "skip"} == doctor_module.TAKES_TIME


def test_one_training_step_is_done_on_the_nodes_own_data(joined: Path) -> None:
    rows = look(joined, "data", "training", "round")
    assert [row.verdict for row in rows.values()] == ["ok", "ok", "ok"], rows
    assert rows["data"].facts["samples"] == 48
    told = rows["round"].facts
    assert told["train_s"] == pytest.approx(rows["training"].facts["step_s"] * told["steps"])
    assert told["up_s"] > 0


def test_the_upload_is_on_the_egress_ledger(home: Path) -> None:
    before = NodeHome(home).egress_file.read_text().count("Probe")
    rows = look(home, "upload", "egress ledger")
    assert rows["upload"].verdict == "ok", rows
    assert rows["upload"].facts["sent_bytes"] > 0
    assert NodeHome(home).egress_file.read_text().count("Probe") > before
    assert rows["egress ledger"].verdict == "ok"


def test_a_key_that_others_may_read_fails(home: Path) -> None:
    (home / "node.key").chmod(0o644)
    assert verdict(home, "home") == ("fail", "home")


def test_a_clock_that_differs_by_more_than_a_minute_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "clock", lambda self: Clock(-3600.0, 0.1))
    assert verdict(home, "clock") == ("fail", "clock")


def test_data_that_are_gone_fail(home: Path) -> None:
    place = NodeHome(home)
    known = place.settings()
    gone = known.data.model_copy(update={"path": home / "nothing"})
    write_settings(place.settings_file, known.model_copy(update={"data": gone}))
    assert verdict(home, "data") == ("fail", "data")


def test_another_ca_than_the_pinned_one_fails(home: Path, tmp_path: Path) -> None:
    other = found_places(tmp_path / "other")
    NodeHome(home).ca_file.write_bytes(other.ca_file.read_bytes())
    row = look(home, "enrolment")["enrolment"]
    assert row.verdict == "fail"


def test_a_port_where_nobody_listens_fails(home: Path) -> None:
    place = NodeHome(home)
    known = place.settings()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    write_settings(place.settings_file, known.model_copy(update={"aggregator": address}))
    assert verdict(home, "port of rounds") == ("fail", "unreachable")


def test_a_name_without_an_address_fails(home: Path) -> None:
    place = NodeHome(home)
    named = place.settings().model_copy(update={"aggregator": "nowhere.invalid:9092"})
    write_settings(place.settings_file, named)
    assert verdict(home, "dns") == ("fail", "dns")


def test_a_damaged_egress_ledger_fails(home: Path) -> None:
    file = NodeHome(home).egress_file
    file.write_text(file.read_text().replace('"Enrol"', '"Other"', 1))
    assert verdict(home, "egress ledger") == ("fail", "egress")


def test_a_policy_that_refuses_what_is_asked_fails(home: Path) -> None:
    NodeHome(home).policy_file.write_text("min_sealed_members = 3\n")
    assert verdict(home, "site policy") == ("fail", "site_policy")


def test_a_node_that_was_revoked_is_told_so(
    tmp_path: Path, places: Places, data: Path, joined: Path
) -> None:
    from gobelin.server.roster import Roster

    folder = tmp_path / "south"
    folder.mkdir()
    invite = invited(places, "south")

    def settle(name: str, member: str) -> NodeSettings:
        return NodeSettings(
            member=member, node=name, aggregator=invite.fleet, data={"path": str(data)}
        )

    Joining(NodeHome(folder), invite, "", lambda line: None).run(settle, SECONDS)
    assert verdict(folder, "enrolment") == ("ok", "")
    kept = [node for node in places.roster().nodes if node.member != "south"]
    places.write_roster(Roster(tuple(kept)))
    assert verdict(folder, "enrolment")[0] == "fail"


def test_an_invite_is_looked_at_before_joining(places: Places) -> None:
    invite = invited(places, "west")
    rows = {row.check: row for row in run_checks(checks_of_invite(invite.text(), None))}
    assert not failed(list(rows.values())), rows
    assert rows["invite"].verdict == "ok"
    assert rows["upload"].facts["sent_bytes"] > 0


def test_an_invite_with_another_pin_fails(places: Places) -> None:
    forged: Invite = dataclasses.replace(invited(places, "east"), ca_pin="ab" * 32)
    rows = {row.check: row for row in run_checks(checks_of_invite(forged.text(), None))}
    assert (rows["invite"].verdict, rows["invite"].code) == ("fail", "wrong_ca")


def test_the_command_ends_with_a_code_of_its_own(home: Path) -> None:
    (home / "node.key").chmod(0o644)
    done = CliRunner().invoke(app, ["--home", str(home), "--quick", "--json"])
    assert done.exit_code == 74
    told = json.loads(done.stdout)
    assert told["role"] == "node"
    assert {row["verdict"] for row in told["checks"]} <= {"ok", "warn", "fail", "skip"}

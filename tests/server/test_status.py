"""`gobelin aggregator status` is told from files alone, and is a view of the overview."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gobelin.server.enrolment import Desk
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.round_events import Convened, Counted, Seat
from gobelin.server.status import print_status
from gobelin.shared.errors import StateError
from gobelin.shared.locks import sole_owner
from tests.keys import entry

ROW: dict[str, Any] = {
    "local_steps": 50,
    "samples": 12345,
    "seconds": 6.78,
    "metrics": {"loss": 0.25, "effective_rank": 17.36},
}
NOTHING_SENT = dict.fromkeys(["last_round", "local_steps", "codec", "sent_bytes", "distortion"])


@pytest.fixture
def home(tmp_path: Path) -> AggregatorHome:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:9092", rounds={"rounds": 9}))
    place = AggregatorHome(tmp_path / "home")
    for number, name in ((1, "north-1"), (2, "south-1")):
        place.write_roster(place.roster().admit(entry(name.split("-")[0], name, number)))
    return place


def status_of(home: AggregatorHome, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    print_status(home, as_json=True)
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_a_fresh_federation_has_sealed_round_0_only(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = status_of(home, capsys)
    assert (facts["federation"], facts["address"]) == ("fed", "127.0.0.1:9092")
    assert (facts["running"], facts["sealed"], facts["rounds"]) == (False, 0, 9)
    assert (facts["open"]["round"], facts["open"]["phase"], facts["open"]["needed"]) == (
        1,
        "open",
        2,
    )
    assert sorted(facts["members"]) == ["north", "south"]
    assert {name: node["member"] for name, node in facts["nodes"].items()} == {
        "north-1": "north",
        "south-1": "south",
    }
    assert NOTHING_SENT.items() <= facts["nodes"]["north-1"].items()
    for empty in ("waiting", "broadcast", "ledger", "last_event", "releases", "history"):
        assert not facts[empty]
    assert [alert["code"] for alert in facts["alerts"]] == ["not_running"]


def test_status_tells_who_runs_and_who_contributed_last(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    seats = {node.id: Seat(node.member, node.name) for node in home.roster().nodes}
    north = next(node for node in seats if seats[node].name == "north-1")
    journal = Journal(home.journal)
    journal.append(Convened(0.0, "plan", 1, seats, {}))
    journal.append(Counted(1.0, north, 1, ROW))
    event = {"event": "contribution", "round": 1, "node": "north-1", **ROW}
    home.record(event)
    with sole_owner(home.folder):
        facts = status_of(home, capsys)
        print_status(home, as_json=False)
        text = capsys.readouterr().out
    assert facts["running"] is True
    assert facts["nodes"]["north-1"]["last_round"] == 1
    assert facts["nodes"]["north-1"]["loss"] == 0.25
    assert facts["nodes"]["south-1"]["last_round"] is None
    assert facts["last_event"] == event
    assert "fed: up, 0 of 9 rounds sealed" in text
    assert "none yet" in text
    assert "round 1: 50 steps" in " ".join(text.split())


def test_status_tells_how_the_open_round_stands(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    seats = {node.id: Seat(node.member, node.name) for node in home.roster().nodes}
    north, south = sorted(seats, key=lambda node: seats[node].name)
    journal = Journal(home.journal)
    journal.append(Convened(0.0, "plan", 2, seats, {0: frozenset({south})}))
    journal.append(Counted(1.0, north, 1, {}))
    journal.append(Counted(1.0, south, 0, {}))
    opened = status_of(home, capsys)["open"]
    assert (
        opened.items()
        >= {
            "round": 1,
            "phase": "collecting",
            "attempt": 2,
            "needed": 2,
            "members": ["north"],
            "nodes": ["north-1"],
            "late": ["south-1"],
            "owing": ["south-1"],
        }.items()
    )
    print_status(home, as_json=False)
    text = capsys.readouterr().out
    assert "round 1: collecting, 1 of 2 members; not yet: south-1; late: south-1" in text


def test_status_of_a_folder_that_is_no_home_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no aggregator home"):
        print_status(AggregatorHome(tmp_path), as_json=True)


def test_status_tells_who_waits_to_be_admitted(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = SimpleNamespace(node="west-1")
    monkeypatch.setattr(Desk, "waiting", lambda desk: [waits])
    assert status_of(home, capsys)["waiting"] == ["west-1"]
    print_status(home, as_json=False)
    assert "waiting to be admitted: west-1; see" in capsys.readouterr().out

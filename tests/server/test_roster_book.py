"""The roster log on disk outlives kills, is changed by one at a time, and shows every change."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gobelin.protocols.enrolment import OBSERVER, REVOKE, ROLE
from gobelin.server.founding import admit_node
from gobelin.server.places import Places
from gobelin.server.roster import Roster
from gobelin.shared.errors import RosterError
from tests.keys import entry, node_pub
from tests.office import found_places

NORTH, SOUTH = entry("north", "north-1", 1), entry("south", "south-1", 2)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return found_places(tmp_path / "home")


def admit(places: Places, *entries: object) -> None:
    with places.book.change(places.signing_key_file) as change:
        for node in entries:
            change.admit(node)


def test_a_roster_is_read_back_by_another_process(places: Places) -> None:
    admit(places, NORTH, SOUTH)
    other = Places(places.folder)
    assert other.roster() == places.roster() == Roster((NORTH, SOUTH))
    assert other.book.log().records[0].record.previous == places.federation_digest()


def test_admitting_twice_writes_one_record(places: Places) -> None:
    admit(places, NORTH)
    admit(places, NORTH)
    assert len(places.book.log().records) == 1


@pytest.mark.parametrize("lost", [1, 7, 100, 400])
def test_a_torn_record_never_counted_and_is_overwritten(places: Places, lost: int) -> None:
    admit(places, NORTH, SOUTH)
    whole = places.roster_file.read_bytes()
    places.roster_file.write_bytes(whole[:-lost])
    assert places.roster() == Roster((NORTH,))
    admit(places, SOUTH)
    assert Places(places.folder).roster() == Roster((NORTH, SOUTH))
    assert places.roster_file.read_bytes().count(b"\n") == 2


def test_a_changed_byte_in_any_whole_line_is_an_error(places: Places) -> None:
    admit(places, NORTH, SOUTH)
    whole = places.roster_file.read_bytes()
    for place in range(0, len(whole) - 1, 37):
        if whole[place : place + 1] == b"\n":
            continue
        changed = bytearray(whole)
        changed[place] ^= 1
        places.roster_file.write_bytes(changed)
        with pytest.raises(RosterError):
            Places(places.folder).roster()
        with pytest.raises(RosterError):
            admit(Places(places.folder), entry("west", "west", 3))


def test_changes_at_the_same_time_all_count(places: Places) -> None:
    nodes = [entry(f"m-{n}", f"n-{n}", n) for n in range(3, 11)]
    threads = [threading.Thread(target=admit, args=(places, node)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Places(places.folder).roster().nodes) == set(nodes)


def test_a_revoked_node_is_off_the_roster_and_stays_in_the_log(places: Places) -> None:
    admit(places, NORTH, SOUTH)
    with places.book.change(places.signing_key_file) as change:
        change.make(REVOKE, change.node("north-1"), "key stolen")
    assert places.roster() == Roster((SOUTH,))
    last = places.book.log().records[-1].record
    assert (last.change, last.node, last.reason) == ("revoke", "north-1", "key stolen")


def test_an_observer_is_on_the_roster_and_no_contributor(tmp_path: Path, places: Places) -> None:
    (tmp_path / "west.pub").write_bytes(node_pub(3))
    admit_node(places.folder, tmp_path / "west.pub", "west", "west", OBSERVER)
    admit(places, NORTH)
    roster = places.roster()
    assert [node.name for node in roster.nodes] == ["west", "north-1"]
    assert [node.name for node in roster.contributors] == ["north-1"]
    places.write_roster(Roster((NORTH, entry("west", "west", 3))))
    assert [s.record.change for s in places.book.log().records][-1] == ROLE
    assert len(places.roster().contributors) == 2


def test_a_roster_signed_by_another_key_is_an_error(tmp_path: Path, places: Places) -> None:
    admit(places, NORTH)
    other = found_places(tmp_path / "other")
    other.roster_file.write_bytes(places.roster_file.read_bytes())
    with pytest.raises(RosterError):
        other.roster()


def test_every_line_is_json_that_an_auditor_can_read(places: Places) -> None:
    admit(places, NORTH)
    (line,) = places.roster_file.read_text().splitlines()
    assert json.loads(line)["record"]["node"] == "north-1"

"""Who is on a sealed federation's roster has a place in its sums, by whichever way it came."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.protocols.enrolment import CONTRIBUTOR, OBSERVER, REVOKE
from gobelin.server.cli import app
from gobelin.server.enrolment import Desk
from gobelin.server.founding import Charter, admit_node, found
from gobelin.server.places import Places
from gobelin.server.reasons import RefusalCode
from gobelin.server.roster import Roster
from gobelin.server.roster_book import Change, RosterBook
from gobelin.shared.errors import ConfigError, EnrolmentError, NoPlaceError
from tests.keys import entry, node_pub
from tests.office import Applicant, invited, join, key_of, serving, show
from tests.server.sealed_nodes import POLICY, RULES, SealedNode, open_twin, sealed_federation
from tests.server.world import Killed

NAMES = ["east", "north", "south"]
SECOND = "north-2"


def by_invite(places: Places) -> None:
    show(places, invited(places), Applicant(), node=SECOND)


def by_approval(places: Places) -> None:
    show(places, invited(places, pre_approved=False), Applicant(), node=SECOND)
    Desk(places).decide(SECOND, approve=True)


def by_role(places: Places) -> None:
    key = places.folder.parent / "second.pub"
    key.write_bytes(node_pub(5))
    admit_node(places.folder, key, "north", SECOND, OBSERVER)
    assign(places, SECOND, CONTRIBUTOR)


def assign(places: Places, node: str, role: str) -> None:
    done = CliRunner().invoke(app, ["role", node, role, "--home", str(places.folder)])
    if done.exception is not None:
        raise done.exception


def revoke(places: Places, node: str) -> None:
    with places.book.change(places.signing_key_file) as change:
        change.make(REVOKE, change.node(node))


def names(places: Places) -> list[str]:
    return [node.name for node in places.roster().contributors]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A sealed federation with a node of member north."""
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0", rounds=RULES, policy=POLICY))
    made = Places(tmp_path / "home")
    assert show(made, invited(made), Applicant()).state == "admitted"
    return made


@pytest.mark.parametrize("way", [by_invite, by_approval, by_role])
def test_no_ordinary_operation_ends_a_sealed_federation(
    tmp_path: Path, way: Callable[[Places], None]
) -> None:
    fed = sealed_federation(tmp_path, [SealedNode(name) for name in NAMES])

    def come() -> None:
        with contextlib.suppress(ConfigError):
            way(Places(fed.home.folder))

    fed.world.happenings.append((0.2, come))  # while the first round's nodes train
    fed.run()
    assert [fed.counted(number) for number in (1, 2)] == [NAMES, NAMES]
    assert [node.name for node in fed.home.roster().contributors] == NAMES


def test_a_pre_approved_invite_for_no_place_is_refused_and_holds_until_there_is_one(
    places: Places,
) -> None:
    shown, who = invited(places), Applicant()
    before = places.roster_file.read_bytes()
    told = show(places, shown, who, node=SECOND)
    assert (told.state, told.reason) == ("refused", "no_place")
    assert "one node a member: north and north-2 are of north" in told.what
    assert places.roster_file.read_bytes() == before
    assert [request.node for request in Desk(places).requests()] == ["north"]
    revoke(places, "north")
    assert show(places, shown, who, node=SECOND).state == "admitted"
    assert names(places) == [SECOND]


def test_a_node_that_enrols_for_no_place_is_told_at_its_terminal(
    tmp_path: Path, places: Places
) -> None:
    invite = invited(places)
    with serving(places):
        with pytest.raises(EnrolmentError, match="one node a member") as told:
            join(tmp_path / "node", invite, SECOND)
        assert "make room" in told.value.remedy
        assign(places, "north", OBSERVER)
        join(tmp_path / "node", invite, SECOND)
    assert names(places) == [SECOND]


def test_an_approval_for_no_place_says_how_to_make_room_and_the_node_waits_on(
    places: Places,
) -> None:
    desk, who = Desk(places), Applicant()
    revoke(places, "north")
    shown = invited(places, pre_approved=False)
    assert show(places, shown, who, node=SECOND).state == "waiting"
    assert show(places, invited(places), Applicant(), node="north-3").state == "admitted"
    with pytest.raises(NoPlaceError, match="north-3 and north-2 are of north") as told:
        desk.decide(SECOND, approve=True)
    assert "gobelin aggregator revoke" in told.value.remedy
    assert "gobelin aggregator refuse north-2" in told.value.remedy
    assert desk.status(key_of(shown), who.id).state == "waiting"
    assign(places, "north-3", OBSERVER)
    desk.decide(SECOND, approve=True)
    assert names(places) == [SECOND]


def test_of_two_that_enrol_side_by_side_one_gets_the_place_and_no_trace_of_the_other_stays(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoke(places, "north")
    turn = RosterBook.change

    def overtaken(book: RosterBook, key_file: Path) -> Any:
        monkeypatch.setattr(RosterBook, "change", turn)
        places.write_roster(places.roster().admit(entry("north", "north-3", 7)))
        return turn(book, key_file)

    monkeypatch.setattr(RosterBook, "change", overtaken)
    assert show(places, invited(places), Applicant(), node=SECOND).reason == "no_place"
    assert names(places) == ["north-3"]
    assert [request.node for request in Desk(places).requests()] == ["north"]


def test_who_was_approved_before_a_kill_gets_no_place_that_is_taken_since(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoke(places, "north")
    shown, who = invited(places), Applicant()

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Change, "make", dying)
        with pytest.raises(Killed):
            show(places, shown, who, node=SECOND)
    assert show(places, invited(places), Applicant(), node="north-3").state == "admitted"
    for told in (show(places, shown, who, node=SECOND), Desk(places).status(key_of(shown), who.id)):
        assert (told.state, told.reason) == ("refused", "no_place")
    revoke(places, "north-3")
    assert Desk(places).status(key_of(shown), who.id).state == "admitted"


def test_a_role_that_needs_a_place_is_refused_and_one_that_needs_none_is_not(
    tmp_path: Path, places: Places
) -> None:
    with pytest.raises(NoPlaceError, match="north and north-2"):
        by_role(places)
    assert names(places) == ["north"]
    assign(places, "north", CONTRIBUTOR)  # as it is already
    assign(places, "north", OBSERVER)
    assign(places, SECOND, CONTRIBUTOR)
    assert names(places) == [SECOND]


def test_a_roster_that_breaks_the_rule_is_mended_step_by_step_and_keeps_nobody_else_out(
    places: Places,
) -> None:
    doubled = [entry("west", f"west-{n}", n) for n in (3, 4, 5)]
    places.write_roster(Roster((*places.roster().nodes, *doubled)))  # as it is taken over
    with pytest.raises(NoPlaceError, match="west-3 and west-4 and west-5 are of west"):
        places.require_places(places.roster())
    assert show(places, invited(places, "south"), Applicant(), node="south").state == "admitted"
    for node in ("west-3", "west-5"):
        assign(places, node, OBSERVER)
    places.require_places(places.roster())
    assert names(places) == ["north", "west-4", "south"]


def test_a_running_round_leaves_out_who_has_no_place_and_goes_on(tmp_path: Path) -> None:
    nodes = [SealedNode(name) for name in NAMES]
    fed = sealed_federation(tmp_path, nodes)
    second = SealedNode(SECOND, "north")
    fed.world.all[second.id] = second
    fed.world.happenings.append((0.2, lambda: fed.admit(second)))  # as no command does
    fed.run()
    assert [fed.counted(number) for number in (1, 2)] == [NAMES, NAMES]
    (refused,) = fed.sealed(2).facts["refused"]
    assert (refused["node"], refused["reason"]) == (SECOND, RefusalCode.NO_PLACE)
    del fed.world.all[second.id]
    assert fed.digest() == open_twin(fed, tmp_path, {1: set(NAMES), 2: set(NAMES)})


def test_who_becomes_an_observer_before_the_sum_is_not_in_it(tmp_path: Path) -> None:
    nodes = [SealedNode(name) for name in (*NAMES, "west")]
    nodes[3].answer = lambda plan, base: [(5.0, nodes[3].announce(plan, base))]
    fed = sealed_federation(tmp_path, nodes, rounds=1)
    fed.world.happenings.append((2.0, lambda: assign(fed.home, "north", OBSERVER)))
    fed.run()
    assert fed.counted(1) == ["east", "south", "west"]
    (refused,) = fed.sealed(1).facts["refused"]
    assert (refused["node"], refused["reason"]) == ("north", RefusalCode.DROPPED_OUT)

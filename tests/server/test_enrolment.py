"""The desk: an invite is for whom it was made, and for the keys that showed it first."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gobelin.client.join import require_admitted
from gobelin.protocols import federation_pb2 as pb
from gobelin.protocols.enrolment import PURPOSE_ENROLMENT, REVOKE, Enrolment
from gobelin.protocols.version import PROTOCOL
from gobelin.server.enrolment import Desk
from gobelin.server.places import Places
from gobelin.server.roster_book import Change, RosterBook
from gobelin.shared.certificates import make_csr
from gobelin.shared.errors import ConfigError, ProtocolError
from gobelin.shared.invite import Invite
from gobelin.shared.signing import SigningKey
from tests.keys import entry
from tests.office import Applicant, found_places, invited, key_of, show


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found_places(tmp_path_factory.mktemp("office") / "home").folder


@pytest.fixture
def places(founded: Path, tmp_path: Path) -> Places:
    shutil.copytree(founded, tmp_path / "home")
    return Places(tmp_path / "home")


def names(places: Places) -> list[str]:
    return [node.name for node in places.roster().nodes]


def test_who_is_pre_approved_is_admitted_once_however_often_it_asks(places: Places) -> None:
    invite, who = invited(places), Applicant()
    for _ in range(3):
        told = show(places, invite, who)
        assert (told.state, told.reason) == ("admitted", "")
    assert names(places) == ["north"]
    assert len(places.book.log().records) == 1
    assert places.book.log().records[0].record.reason == f"invite {invite.id}"


def test_an_invite_is_bound_to_the_keys_that_showed_it_first(places: Places) -> None:
    invite, first, second = invited(places), Applicant(), Applicant()
    assert show(places, invite, first).state == "admitted"
    assert show(places, invite, second, node="other").reason == "used"
    first.signing = SigningKey.generate()
    assert show(places, invite, first).reason == "bound"
    assert names(places) == ["north"]


def test_an_invite_for_two_nodes_is_for_two(places: Places) -> None:
    invite = invited(places, nodes=2)
    told = [show(places, invite, Applicant(), node=f"n-{n}").reason for n in range(3)]
    assert told == ["", "", "used"]
    assert names(places) == ["n-0", "n-1"]


def test_who_is_not_pre_approved_waits_for_the_operator(places: Places) -> None:
    invite, who, desk = invited(places, pre_approved=False), Applicant(), Desk(places)
    told = show(places, invite, who)
    assert (told.state, names(places)) == ("waiting", [])
    assert desk.status(key_of(invite), who.id).state == "waiting"
    with pytest.raises(ConfigError, match="waiting: north"):
        desk.decide("other words than these are here", approve=True)
    assert desk.decide(told.words.upper(), approve=True).node == "north"
    assert desk.status(key_of(invite), who.id).state == "admitted"
    assert names(places) == ["north"]


def test_an_approval_whose_name_is_given_away_meanwhile_is_none(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`admit` needs no desk; the operator must not be told that the node is in."""
    invite, who, desk = invited(places, pre_approved=False), Applicant(), Desk(places)
    show(places, invite, who)
    (request,) = desk.waiting()
    turn = RosterBook.change

    def overtaken(book: RosterBook, key_file: Path) -> Any:
        monkeypatch.setattr(RosterBook, "change", turn)
        places.write_roster(places.roster().admit(entry("south", request.node, 7)))
        return turn(book, key_file)

    monkeypatch.setattr(RosterBook, "change", overtaken)
    with pytest.raises(ConfigError, match="exists") as told:
        desk.decide(request.node, approve=True)
    assert told.value.remedy == "gobelin aggregator refuse north"
    desk.decide(request.node, approve=False, reason="taken")  # it waits on: it can be refused


def test_who_is_refused_stays_refused_and_is_told_why(places: Places) -> None:
    invite, who, desk = invited(places, pre_approved=False), Applicant(), Desk(places)
    show(places, invite, who)
    desk.decide("north", approve=False, reason="call us")
    for told in (show(places, invite, who), desk.status(key_of(invite), who.id)):
        assert (told.reason, "call us" in told.what) == ("refused", True)
    assert names(places) == []


def test_an_expired_invite_is_refused_but_not_to_the_node_it_is_bound_to(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite, who = invited(places, nodes=2, ttl_s=3600.0), Applicant()
    assert show(places, invite, who).state == "admitted"
    later = time.time() + 2 * 3600 + 60
    monkeypatch.setattr("gobelin.server.enrolment.time.time", lambda: later)
    at = {"at_ms": int(later * 1000)}
    assert show(places, invite, Applicant(), node="late", **at).reason == "expired"
    assert show(places, invite, who, **at).state == "admitted"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"member": "south"}, "malformed"),
        ({"invite": "0" * 16}, "malformed"),
        ({"federation_digest": "0" * 64}, "federation"),
        ({"at_ms": 1}, "clock"),
        ({"node": "../../etc"}, "malformed"),
        ({"node": ""}, "malformed"),
        ({"csr": "no request"}, "malformed"),
        ({"csr": ""}, "malformed"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    places: Places, other: dict[str, Any], reason: str
) -> None:
    told = show(places, invited(places), Applicant(), **other)
    assert (told.state, told.reason) == ("refused", reason)
    assert names(places) == Desk(places).requests() == []


def test_a_request_for_a_key_of_somebody_else_is_refused(places: Places) -> None:
    """Possession of both keys is proven: the EC key's by the request, the other's over it all."""
    invite, thief, victim = invited(places), Applicant(), Applicant()
    csr = make_csr(victim.key, "north", victim.signing.public).decode()
    stolen = show(places, invite, thief, csr=csr)
    assert (stolen.reason, "another signing key" in stolen.what) == ("malformed", True)
    broken = csr.replace(csr[200:204], "AAAA")
    assert show(places, invite, thief, csr=broken).reason == "malformed"
    data, _ = thief.says(invite, signing_key=victim.signing.public)
    wrong = thief.signing.sign(PURPOSE_ENROLMENT, data)
    assert Desk(places).enrol(key_of(invite), data, wrong).reason == "malformed"
    data, signature = thief.says(invite)
    assert Desk(places).enrol(key_of(invite), data + b" ", signature).reason == "malformed"
    assert names(places) == []


def test_a_skewed_clock_is_named_with_its_sign(places: Places) -> None:
    invite = invited(places)
    ahead = int((time.time() + 7300) * 1000)
    told = show(places, invite, Applicant(), at_ms=ahead)
    assert (told.reason, told.what) == (
        "clock",
        "the node's clock is 2 h ahead of the aggregator's",
    )
    behind = int((time.time() - 65) * 1000)
    assert "behind" in show(places, invite, Applicant(), at_ms=behind).what
    assert show(places, invite, Applicant(), at_ms=int((time.time() - 50) * 1000)).reason == ""


def test_a_name_or_key_that_is_taken_is_refused_and_the_invite_still_holds(places: Places) -> None:
    assert show(places, invited(places), Applicant()).state == "admitted"
    invite, who = invited(places, "south"), Applicant()
    assert show(places, invite, who).reason == "taken"
    assert show(places, invite, who, node="south").state == "admitted"
    waiting, other = invited(places, "west", pre_approved=False), Applicant()
    assert show(places, waiting, other, node="west").state == "waiting"
    late = show(places, invited(places, "west"), Applicant(), node="west")
    assert late.reason == "taken"


def test_a_revoked_node_needs_a_new_invite(places: Places) -> None:
    invite, who = invited(places), Applicant()
    show(places, invite, who)
    with places.book.change(places.signing_key_file) as change:
        change.make(REVOKE, change.node("north"))
    assert show(places, invite, who).reason == "revoked"
    assert names(places) == []
    assert show(places, invited(places), who).state == "admitted"
    assert names(places) == ["north"]


def test_a_kill_between_approval_and_admission_is_made_good(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite, who, desk = invited(places, pre_approved=False), Applicant(), Desk(places)
    show(places, invite, who)
    with monkeypatch.context() as patch:
        patch.setattr(Change, "make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            desk.decide("north", approve=True)
    assert names(places) == []
    assert desk.status(key_of(invite), who.id).state == "admitted"
    assert names(places) == ["north"]


def test_of_the_secret_nothing_is_on_disk(places: Places) -> None:
    invite, who = invited(places), Applicant()
    show(places, invite, who)
    forms = [invite.secret, invite.secret.hex().encode(), invite.text().encode()]
    for file in places.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not any(form in data for form in forms), file
    kept = json.loads((places.enrolment / "invites" / f"{invite.id}.json").read_text())
    assert "PRIVATE" not in kept["anchor"]
    assert (places.enrolment / "invites" / f"{invite.id}.json").stat().st_mode & 0o77 == 0


@given(st.binary(max_size=400), st.text(max_size=150))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_do_anything_but_be_refused(places: Places, data: bytes, signature: str) -> None:
    invite = SHOWN.setdefault(places.folder, invited(places))
    told = Desk(places).enrol(key_of(invite), data, signature)
    assert (told.state, told.reason) == ("refused", "malformed")


@given(field=st.sampled_from([f.name for f in dataclasses.fields(Enrolment)]), value=st.text())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_field_that_a_node_signs_breaks_the_desk(places: Places, field: str, value: str) -> None:
    invite = SHOWN.setdefault(places.folder, invited(places))
    if field != "node":
        told = show(places, invite, WHO, **{field: value})
        assert (told.state, names(places)) == ("refused", [])


SHOWN: dict[Path, Invite] = {}
WHO = Applicant()


def test_what_asks_under_no_known_key_or_path_is_unknown(places: Places) -> None:
    invite, who = invited(places), Applicant()
    assert Desk(places).enrol("ab" * 32, *who.says(invite)).reason == "unknown"
    for node in ("", "../../roster/log", "ab" * 32):
        assert Desk(places).status(key_of(invite), node).reason == "unknown"


@pytest.mark.parametrize(
    ("protocol", "who"), [(PROTOCOL - 1, "the node"), (PROTOCOL + 1, "the aggregator")]
)
def test_a_node_of_another_protocol_is_told_which_side_must_upgrade(
    places: Places, protocol: int, who: str
) -> None:
    told = show(places, invited(places), Applicant(), protocol=protocol)
    assert told.reason == "protocol"
    assert f"protocol {protocol}, the aggregator {PROTOCOL}: upgrade {who}" in told.what
    assert names(places) == []


def test_a_node_refuses_an_aggregator_it_does_not_understand() -> None:
    with pytest.raises(ProtocolError, match="upgrade this node"):
        require_admitted(pb.EnrolmentReply(state=pb.ADMITTED, protocol=PROTOCOL + 1))
    require_admitted(pb.EnrolmentReply(state=pb.ADMITTED))  # said nothing: the first
    require_admitted(pb.EnrolmentReply(state=pb.ADMITTED, protocol=PROTOCOL))
    refused = pb.EnrolmentReply(state=pb.REFUSED, reason="protocol", what="upgrade the node")
    with pytest.raises(ProtocolError, match="upgrade the node"):
        require_admitted(refused)

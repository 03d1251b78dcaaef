"""A node joins by an invite: once, wherever it was ended, and only where it should."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from gobelin.client import join as module
from gobelin.client.home import NodeHome
from gobelin.client.join import Joining, read_invite
from gobelin.client.membership import Membership, kept_up
from gobelin.client.service import Connection
from gobelin.protocols.enrolment import REVOKE
from gobelin.server.enrolment import Desk
from gobelin.server.places import Places
from gobelin.shared.certificates import NODE_DAYS, issued_by, renewal_time
from gobelin.shared.errors import (
    ClockError,
    EnrolmentError,
    InviteError,
    RosterError,
    StateError,
    UnreachableError,
    WrongCAError,
)
from gobelin.shared.files import read_json, write_json
from gobelin.shared.keys import load_private_key
from gobelin.shared.roster_log import RosterLog
from tests.office import found_places, invited, join, serving, settings_of, until


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = found_places(tmp_path_factory.mktemp("office") / "home")
    with serving(made):
        yield made


@pytest.fixture
def member(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test."""
    return "m-" + request.node.name.replace("test_", "").replace("[", "-").strip("]")[:40]


def records_of(places: Places, node: str) -> list[str]:
    return [s.record.change for s in places.book.log().records if s.record.node == node]


def test_joining_makes_a_whole_home_with_private_keys(
    tmp_path: Path, places: Places, member: str
) -> None:
    joined = join(tmp_path / "node", invited(places, member))
    home = joined.home
    assert home.settings().member == member
    assert home.ca_file.read_bytes() == places.ca_file.read_bytes()
    assert home.pinned("federation_digest") == places.federation_digest()
    for file in (home.key_file, home.signing_key_file, home.invite_file):
        assert file.stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate(home.certificate_file.read_bytes())
    assert certificate.public_key() == load_private_key(home.key_file).public_key()
    assert issued_by(places.ca(), certificate)
    days = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days
    assert days <= NODE_DAYS
    (entry,) = [node for node in places.roster().nodes if node.name == member]
    assert entry.public_key.encode() in home.public_key_file.read_bytes()


def test_doing_it_again_changes_nothing(tmp_path: Path, places: Places, member: str) -> None:
    invite = invited(places, member)
    kept = ("node.key", "signing.key", "node.pub", "node.toml", "ca.pem", "enrolment.json")
    before: dict[str, bytes] = {}
    for _ in range(2):
        home = join(tmp_path / "node", invite).home
        now = {name: (home.folder / name).read_bytes() for name in kept}
        assert before in ({}, now)
        before = now
    assert records_of(places, member) == ["admit"]


class Ended(BaseException):
    """Stands for kill −9: no handler of ours catches it."""


WRITES = 9  # of a join: two keys, node.pub, the invite's key, what it joins, and four at the end


@pytest.mark.parametrize("place", range(WRITES + 1))
def test_ended_at_any_write_it_goes_on_and_is_admitted_once(
    tmp_path: Path, places: Places, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bench/enrolment_kills does it with real processes and real kills."""
    name, folder, real = f"m-{place:02d}-w", tmp_path / "node", Path.replace
    invite, done = invited(places, name), 0

    def replace(source: Path, path: Path) -> Path:
        nonlocal done
        if folder in Path(path).parents:  # else the service's
            if done == place:
                raise Ended
            done += 1
        return real(source, path)

    with monkeypatch.context() as patch, contextlib.suppress(Ended):
        patch.setattr(Path, "replace", replace)
        join(folder, invite)
    assert done == place  # with the last, all of them
    join(folder, invite)
    assert records_of(places, name) == ["admit"]


def test_who_waits_is_told_the_words_that_the_operator_sees(
    tmp_path: Path, places: Places, member: str
) -> None:
    said: list[str] = []
    invite = invited(places, member, pre_approved=False)
    done: list[Any] = []
    waiting = threading.Thread(
        target=lambda: done.append(join(tmp_path / "node", invite, say=said.append)), daemon=True
    )
    waiting.start()
    until(lambda: said)
    (request,) = [r for r in Desk(places).requests() if r.node == member]
    assert request.words in said[0]
    assert records_of(places, member) == []
    Desk(places).decide(request.words, approve=True)
    waiting.join(30)
    assert done[0].words == request.words
    assert records_of(places, member) == ["admit"]


def test_a_used_invite_lets_no_second_node_in(tmp_path: Path, places: Places, member: str) -> None:
    invite = invited(places, member)
    join(tmp_path / "first", invite)
    with pytest.raises(InviteError, match="used by another node") as caught:
        join(tmp_path / "second", invite, "another")
    assert caught.value.exit_code == 43
    assert records_of(places, "another") == []
    assert not NodeHome(tmp_path / "second").settings_file.exists()


def test_an_expired_invite_is_refused_on_both_sides(
    tmp_path: Path, places: Places, member: str
) -> None:
    invite = invited(places, member, ttl_s=-60.0)
    with pytest.raises(InviteError, match=r"expired \d+ s ago"):
        join(tmp_path / "node", invite)
    assert not (tmp_path / "node" / "node.key").exists()
    later = dataclasses.replace(invite, expires=invite.expires + 3600)  # by a forger
    with pytest.raises(InviteError, match=r"expired 6\d s ago"):
        join(tmp_path / "node", later)


def test_an_invite_that_was_never_made_is_not_known(
    tmp_path: Path, places: Places, member: str
) -> None:
    forged = dataclasses.replace(invited(places, member), secret=bytes(20))
    with pytest.raises(InviteError, match="does not know this invite"):
        join(tmp_path / "node", forged)


@pytest.mark.parametrize("name", ["ca_pin", "federation_digest"])
def test_an_invite_to_another_federation_is_refused_before_anything_is_signed(
    tmp_path: Path, places: Places, member: str, name: str
) -> None:
    forged = dataclasses.replace(invited(places, member), **{name: "0" * 64})
    wanted = WrongCAError if name == "ca_pin" else InviteError
    with pytest.raises(wanted):
        join(tmp_path / "node", forged)
    assert records_of(places, member) == []


def test_another_federation_at_the_address_is_found_by_the_pin(
    tmp_path: Path, places: Places, member: str
) -> None:
    """It lets everybody in whom it takes for its own, and answers as it likes."""
    other = found_places(tmp_path / "other")
    mine = invited(places, member)
    other.enrolment.mkdir()
    invites = other.enrolment / "invites"
    invites.mkdir()
    real = places.enrolment / "invites" / f"{mine.id}.json"
    (invites / real.name).write_bytes(real.read_bytes())
    network = other.front().network
    with serving(other):
        led_astray = dataclasses.replace(mine, service=f"{network.host}:{network.service_port}")
        with pytest.raises(WrongCAError, match="another pin") as caught:
            join(tmp_path / "node", led_astray)
    assert caught.value.exit_code == 32
    assert other.roster().nodes == ()


def test_a_wrong_clock_is_named(
    tmp_path: Path, places: Places, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = invited(places, member, ttl_s=86400.0)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "time", lambda: real() + 7300)
        # The service's clock is this process's: only what the node signs is ahead.
        patch.setattr("gobelin.server.enrolment.time", Real(real))
        with pytest.raises(ClockError, match="2 h ahead of the aggregator's") as caught:
            join(tmp_path / "node", invite)
    assert (caught.value.exit_code, "NTP" in caught.value.remedy) == (45, True)
    with monkeypatch.context() as patch:
        patch.setattr("gobelin.client.service.time", Real(lambda: real() - 86400))
        with pytest.raises(ClockError, match="at least 24 h behind"):
            join(tmp_path / "node", invite)
    assert join(tmp_path / "node", invite).node == member


class Real:
    """A time module with another clock."""

    def __init__(self, clock: Any) -> None:
        self.time, self.sleep, self.monotonic = clock, time.sleep, time.monotonic


def test_nobody_at_the_address_is_said_after_the_time_given(tmp_path: Path, places: Places) -> None:
    invite = dataclasses.replace(invited(places, "nobody"), service="127.0.0.1:1")
    said: list[str] = []
    joining = Joining(NodeHome(tmp_path), invite, "", said.append)
    with pytest.raises(UnreachableError, match="does not answer"):
        joining.run(settings_of, 1.0)
    assert "trying again" in said[0]


def test_a_folder_with_something_else_in_it_is_left_alone(
    tmp_path: Path, places: Places, member: str
) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(StateError, match="not empty"):
        join(tmp_path, invited(places, member))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_home_of_another_member_is_left_alone(
    tmp_path: Path, places: Places, member: str
) -> None:
    join(tmp_path / "node", invited(places, member))
    with pytest.raises(StateError, match=f"a node of member '{member}'"):
        join(tmp_path / "node", invited(places, "somebody-else"))


def test_an_invite_comes_from_the_line_a_file_or_nowhere(tmp_path: Path, places: Places) -> None:
    text = invited(places, "reader").text()
    (tmp_path / "invite").write_text(text + "\n")
    assert read_invite(text, None) == read_invite("", tmp_path / "invite")
    for wrong in (("", None), (text, tmp_path / "invite"), ("", tmp_path / "none")):
        with pytest.raises(InviteError):
            read_invite(*wrong)


# ---------------------------------------------------------------- afterwards


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    tmp_path: Path, places: Places, member: str
) -> None:
    membership = Membership(join(tmp_path / "node", invited(places, member)).home)
    first = membership.certificate
    assert not membership.renew_if_due()
    due = renewal_time(first)
    third = (first.not_valid_after_utc - first.not_valid_before_utc).total_seconds() / 3
    assert due == pytest.approx(first.not_valid_after_utc.timestamp() - third)
    assert not membership.renew_if_due(due - 1)
    assert membership.renew_if_due(due)
    assert membership.certificate.serial_number != first.serial_number


def test_a_certificate_that_ended_is_asked_for_by_the_invite(
    tmp_path: Path, places: Places, member: str
) -> None:
    membership = Membership(join(tmp_path / "node", invited(places, member)).home)
    first = membership.certificate
    assert membership.renew_if_due(first.not_valid_after_utc.timestamp() + 1)
    assert membership.certificate.serial_number != first.serial_number
    with places.book.change(places.signing_key_file) as change:
        change.make(REVOKE, change.node(member))
    with pytest.raises(EnrolmentError, match="no longer on the roster") as caught:
        membership.renew_if_due(first.not_valid_after_utc.timestamp() + 1)
    assert caught.value.exit_code == 44
    assert records_of(places, member) == ["admit", "revoke"]


def test_a_running_node_keeps_its_certificate_fresh(
    tmp_path: Path, places: Places, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = join(tmp_path / "node", invited(places, member)).home
    before = home.certificate_file.read_bytes()
    monkeypatch.setattr("gobelin.client.membership.renewal_time", lambda certificate: 0.0)
    said: list[str] = []
    with kept_up(home, said.append):
        until(lambda: said)
    assert said == ["the node's certificate was renewed"]
    assert home.certificate_file.read_bytes() != before


def test_a_node_without_an_invite_runs_without_a_certificate(tmp_path: Path) -> None:
    with kept_up(NodeHome(tmp_path), lambda line: pytest.fail(line)):
        pass
    with pytest.raises(StateError, match="has not joined by an invite"):
        Membership(NodeHome(tmp_path))


def test_the_roster_a_node_sees_is_signed_and_only_grows(
    tmp_path: Path, places: Places, member: str
) -> None:
    membership = Membership(join(tmp_path / "node", invited(places, member)).home)
    length = len(membership.roster().records)
    join(tmp_path / "other", invited(places, member + "-2"))
    log = membership.roster()
    assert len(log.records) == length + 1
    assert log.head == places.book.log().head
    home = NodeHome(tmp_path / "node")
    pins = read_json(home.pins_file)
    write_json(home.pins_file, {**pins, "roster": {"length": length, "head": "0" * 64}})
    with pytest.raises(RosterError, match="rewritten") as caught:
        membership.roster()
    assert caught.value.exit_code == 46


def test_a_longer_roster_that_another_command_saw_meanwhile_stays(
    tmp_path: Path, places: Places, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two `node roster`s, or one beside the node in a sealed round."""
    home = join(tmp_path / "node", invited(places, member)).home
    ask, longer = Connection.ask, list[RosterLog]()

    def overtaken(self: Connection, method: str, request: Any) -> Any:
        reply = ask(self, method, request)
        if method == "Roster" and not longer:
            longer.append(places.book.log())  # but for the one that joins now
            join(tmp_path / "other", invited(places, member + "-2"))
            longer[0] = Membership(home).roster()
        return reply

    monkeypatch.setattr(Connection, "ask", overtaken)
    log = Membership(home).roster()
    assert len(log.records) == len(longer[0].records) - 1
    assert home.pinned("roster") == {"length": len(longer[0].records), "head": longer[0].head}
    assert Membership(home).kept_roster().head == longer[0].head

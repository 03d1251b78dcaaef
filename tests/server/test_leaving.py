"""A node leaves with all it earned, signed, however often it asks; what was left out is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gobelin.client.membership import Membership, verified_exit
from gobelin.client.spool_entry import HEADER, RECEIPT, folder_of
from gobelin.protocols.enrolment import PURPOSE_DEPARTURE, Departure
from gobelin.protocols.messages import Contribution, Receipt
from gobelin.server.leaving import Left, leave, receipts_of
from gobelin.server.places import Places
from gobelin.shared.errors import EnrolmentError, GobelinError, RosterError, SignatureError
from gobelin.shared.files import read_json, write_atomic
from gobelin.shared.roster_log import RosterLog
from gobelin.shared.signing import SigningKey
from tests.keys import signing_key
from tests.office import found_places, invited, join, serving
from tests.server.world import Federation, Node, World


@pytest.fixture
def trained(tmp_path: Path, north: Node, south: Node) -> tuple[Places, Node]:
    """A federation that has sealed two rounds, and one of its nodes."""
    fed = Federation(tmp_path / "fed", World(north, south), (north, south), rounds=2)
    fed.run()
    return Places(fed.home.folder), north


def key_of(node: Node) -> SigningKey:
    """The signing key of one of the world's nodes."""
    keys = (signing_key(number) for number in range(77, 10_000))
    return next(key for key in keys if key.public == node.entry.signing_key)


def departure(places: Places, who: Node, key: Any = None, **other: str) -> tuple[bytes, str]:
    said = {"federation_digest": places.federation_digest(), "node": who.entry.id, **other}
    data = Departure(**said, at_ms=1).to_bytes()
    return data, (key or key_of(who)).sign(PURPOSE_DEPARTURE, data)


def verify(places: Places, left: Left, **other: Any) -> Any:
    log = RosterLog(places.federation_digest(), places.aggregator_key())
    log.extend(left.records)
    told = {"receipts": left.receipts, "signature": left.signature, **other}
    data = told.pop("data", left.confirmed.to_bytes())
    return verified_exit(data, told["signature"], told["receipts"], log, places.aggregator_key())


def test_it_has_a_receipt_of_every_round_that_counted_it(trained: tuple[Places, Node]) -> None:
    places, node = trained
    left = leave(places, node.entry.id, *departure(places, node))
    assert [(r.round, r.counted) for r in left.receipts] == [(1, True), (2, True)]
    assert sum(r.weight for r in left.receipts) == 1.0  # half of each round
    confirmed = verify(places, left)
    assert (confirmed.round, confirmed.receipts) == (2, 2)
    assert (
        confirmed.consensus_digest
        == read_json(places.round_folder(2) / "manifest.json")["vector_digest"]
    )
    assert [n.name for n in places.roster().nodes] == ["south"]


def test_leaving_again_gives_the_same(trained: tuple[Places, Node]) -> None:
    places, node = trained
    once = leave(places, node.entry.id, *departure(places, node))
    again = leave(places, node.entry.id, *departure(places, node))
    assert again == once
    assert [s.record.change for s in places.book.log().records] == ["admit", "admit", "leave"]


def test_nobody_else_can_make_a_node_leave(trained: tuple[Places, Node]) -> None:
    places, node = trained
    data, signature = departure(places, node)
    with pytest.raises(SignatureError):
        leave(places, node.entry.id, *departure(places, node, signing_key(2)))
    for other in ({"federation_digest": "0" * 64}, {"node": "0" * 64}):
        with pytest.raises(EnrolmentError, match="another"):
            leave(places, node.entry.id, *departure(places, node, **other))
    with pytest.raises(GobelinError):
        leave(places, node.entry.id, data + b" ", signature)
    with pytest.raises(EnrolmentError, match="never on the roster"):
        leave(places, "0" * 64, data, signature)
    assert len(places.roster().nodes) == 2


def test_a_bundle_that_leaves_anything_out_is_found(trained: tuple[Places, Node]) -> None:
    places, node = trained
    left = leave(places, node.entry.id, *departure(places, node))
    wrong = dataclasses.replace(left.receipts[0], weight=0.1)
    for receipts in (left.receipts[1:], [], [wrong, left.receipts[1]], [*left.receipts, wrong]):
        with pytest.raises(RosterError, match="receipts"):
            verify(places, left, receipts=receipts)
    other = dataclasses.replace(left.confirmed, consensus_digest="0" * 64)
    with pytest.raises(RosterError, match="not signed"):
        verify(places, left, data=other.to_bytes())
    with pytest.raises(RosterError, match="does not end with the leaving"):
        verify(places, dataclasses.replace(left, records=left.records[:-1]))


def test_a_node_without_contributions_has_no_receipts(trained: tuple[Places, Node]) -> None:
    places, _ = trained
    assert receipts_of(places, "0" * 64, places.sealed_rounds()) == []


# ---------------------------------------------------------------- over the wire


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = found_places(tmp_path_factory.mktemp("office") / "home")
    with serving(made):
        yield made


def test_a_node_that_leaves_keeps_its_bundle_and_is_off_the_roster(
    tmp_path: Path, office: Places
) -> None:
    home = join(tmp_path / "node", invited(office, "west")).home
    membership = Membership(home)
    confirmed = membership.leave(30.0, lambda line: None)
    assert (confirmed.member, confirmed.round, confirmed.receipts) == ("west", 0, 0)
    kept = read_json(home.exit / "exit.json")
    assert kept["record_digest"] == office.book.log().records[-1].record.digest
    assert {file.name for file in home.exit.iterdir()} == {
        "exit.json",
        "receipts.json",
        "roster.json",
        "ca.pem",
    }
    with pytest.raises(EnrolmentError, match="not on the roster"):
        membership.roster()


def test_a_node_that_was_killed_while_it_left_gets_its_bundle_afterwards(
    tmp_path: Path, office: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = join(tmp_path / "node", invited(office, "east")).home
    with monkeypatch.context() as patch:
        patch.setattr("gobelin.client.membership.verified_exit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Membership(home).leave(30.0, lambda line: None)
    assert "east" not in [node.name for node in office.roster().nodes]
    assert not home.exit.exists()
    assert Membership(home).leave(30.0, lambda line: None).member == "east"
    assert home.exit.exists()


def test_a_bundle_that_denies_what_was_receipted_here_is_found(
    tmp_path: Path, office: Places
) -> None:
    home = join(tmp_path / "node", invited(office, "mild")).home
    made = Contribution("fed", 7, "plan", "base", "ab", 1, 32, 1.0, {})
    write_atomic(folder_of(home.spool, 7) / HEADER, made.to_bytes())
    write_atomic(
        folder_of(home.spool, 7) / RECEIPT, Receipt("fed", 7, "ab", True, "", 0.5).to_bytes()
    )
    with pytest.raises(RosterError, match="leaves out round 7"):
        Membership(home).leave(30.0, lambda line: None)
    assert not home.exit.exists()

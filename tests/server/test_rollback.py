"""Going back to an earlier consensus: a round of its own, proved to members; nothing is undone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gobelin.protocols.messages import RoundPlan
from gobelin.server import cli
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.rollback import roll_back
from gobelin.server.round_events import Counted
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.errors import (
    ConfigError,
    GobelinError,
    InUseError,
    LedgerError,
    StateError,
)
from gobelin.shared.files import remove_folder
from gobelin.shared.ledger import (
    PURPOSE,
    LedgerFolder,
    SignedEntry,
    influence_of,
    verify_history,
)
from gobelin.shared.locks import sole_owner
from gobelin.shared.release import verify_release
from tests.server.ledger.witness import NESTEROV, Witness, ca, listening, silent, verify
from tests.server.world import Federation, Killed, Node, federation, kill_at

AT = 1_800_000_000


def run_until(fed: Federation, number: int) -> None:
    """Run until round `number` is sealed, and die."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "round_sealed", number)
        with pytest.raises(Killed):
            fed.run()


def back(fed: Federation, to: str, why: str = "it diverged") -> dict[str, Any]:
    return roll_back(fed.home, to, why, silent, now=AT)


def plans(fed: Federation) -> dict[int, RoundPlan]:
    return {m.round: m for _, _, m in fed.world.sent if isinstance(m, RoundPlan)}


@pytest.fixture(scope="module")
def gone_back(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Rounds 1 to 3, back to 1 in round 4, on to 6; nodes check and cosign all the while."""
    folder = tmp_path_factory.mktemp("back")
    fed = listening(
        folder, rounds=6, archive=True, outer=NESTEROV, broadcast="int8", cross_node=True
    )
    run_until(fed, 3)
    back(fed, "round-1")
    fed.run()
    return fed


def test_the_rollback_is_a_round_that_leaves_what_the_earlier_one_left(
    gone_back: Federation,
) -> None:
    fed = gone_back
    assert fed.home.sealed_rounds() == list(range(7))
    one, four, five = (fed.sealed(number) for number in (1, 4, 5))
    assert four.vector.digest == one.vector.digest
    for name in ("outer", "owed", "cross_node"):
        assert four.extra[name].keys() == one.extra[name].keys()
        for key, tensor in one.extra[name].items():
            assert torch.equal(four.extra[name][key], tensor)
    assert "broadcast" not in four.extra
    assert four.facts["base_digest"] == fed.sealed(3).vector.digest
    assert five.facts["base_digest"] == one.vector.digest
    told = {"to": 1, "from": 3, "why": "it diverged", "state": "kept", "at": AT}
    assert four.facts["rollback"] == told
    assert {n: of["influence_total"] for n, of in four.facts["members"].items()} == {
        n: of["influence_total"] for n, of in one.facts["members"].items()
    }


def test_nodes_go_on_because_the_ledger_proves_it(gone_back: Federation) -> None:
    fed = gone_back
    assert [plans(fed)[number].rollbacks for number in (1, 2, 3, 5, 6)] == [
        "",
        "",
        "",
        "4:1",
        "4:1",
    ]
    assert 4 not in plans(fed)
    assert plans(fed)[5].moments_digest == plans(fed)[2].moments_digest
    for node in fed.world.all.values():
        assert isinstance(node, Witness)
        assert not list(node.home.heads.glob("other-*"))
    assert fed.counted(5) == fed.counted(6) == ["north", "south"]


def test_bases_travel_whole_after_a_rollback_and_as_steps_again(gone_back: Federation) -> None:
    sent = {
        event["round"]: {of["steps"] for of in event["nodes"].values()}
        for event in gone_back.events("offered")
    }
    assert sent == {1: {None}, 2: {1}, 3: {1}, 5: {None}, 6: {1}}


def test_verify_tells_it_and_replay_repeats_it(gone_back: Federation) -> None:
    home = gone_back.home
    told = verify(home.folder, "--key", ca(home), "--replay", "--influence")
    assert told["rollbacks"] == [{"round": 4, "to": 1, "why": "it diverged"}]
    assert told["replayed"] == [1, 2, 3, 5, 6]
    assert "round 4 went back to round 1: it diverged" in told["said"]
    north = told["influence"]["north"]
    assert sorted(north["rounds"]) == ["1", "5", "6"]
    assert north["reasons"] == {"rolled_back": 2}


def test_it_is_released_and_newer_than_all_before(gone_back: Federation) -> None:
    home = gone_back.home
    key = home.aggregator_key()
    release = verify_release(home.releases / "release-00004", key)
    assert release.statement.vector_digest == gone_back.sealed(1).vector.digest
    newest = verify_release(home.releases / "release-00006", key)
    assert newest.statement.round > release.statement.round


@pytest.mark.parametrize(
    "change",
    [
        {"restores": 2},
        {"restores": 6},
        {"why": ""},
        {"plan_digest": "0" * 64},
        {"vector_digest": "0" * 64},
    ],
    ids=str,
)
def test_a_rollback_that_leaves_something_else_is_refused(
    gone_back: Federation, change: dict[str, Any]
) -> None:
    home = gone_back.home
    key, history = home.signing_key(), LedgerFolder(home.ledger).read()
    entry = history.entries[4].entry
    bent = dataclasses.replace(entry, record=dataclasses.replace(entry.record, **change))
    signed = SignedEntry(bent, key.sign(PURPOSE, bent.canonical))
    entries = [*history.entries[:4], signed, *history.entries[5:]]
    with pytest.raises(LedgerError, match=r"round [45]"):
        verify_history(dataclasses.replace(history, entries=entries), key.public)


def test_a_plan_that_hides_the_rollback_is_refused_by_nodes(
    gone_back: Federation, tmp_path: Path
) -> None:
    (first, *_) = gone_back.world.all.values()
    assert isinstance(first, Witness)
    offer = next(
        p
        for p in gone_back.world.parcels
        if isinstance(p.message, RoundPlan) and p.message.round == 5 and p.node == first.id
    )
    for said in ("", "4:2", "4:1,9:3", "4"):
        bent = dataclasses.replace(offer.message, rollbacks=said)
        fresh = Witness("north", tmp_path / (said or "none"))
        fresh.join(gone_back.home)
        with pytest.raises(GobelinError, match="rollback"):
            fresh.hear(dataclasses.replace(offer, message=bent, receipts=()))


def test_the_way_back_again_and_late_answers_of_what_was_left(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    west.answer = lambda plan, base: [(9.0, west.reply(plan, base))]  # sealed without it
    fed = federation(tmp_path, north, south, west, rounds=9, quorum=0.6, grace_s=1.0)
    run_until(fed, 3)
    back(fed, "1")
    run_until(fed, 6)
    assert back(fed, "round-5")["round"] == 7
    fed.run()
    assert plans(fed)[9].rollbacks == "4:1,7:5"
    for number in (5, 8):  # nothing that was trained before a rollback counts behind it
        assert all(row["staleness"] == 0 for row in fed.sealed(number).facts["contributions"])
    told = verify(fed.home.folder)
    assert [of["round"] for of in told["rollbacks"]] == [4, 7]
    entries = (one.entry for one in LedgerFolder(fed.home.ledger).read().entries)
    north = influence_of(entries, 9, {4: 1, 7: 5})["north"]
    assert sorted(north["rounds"]) == ["1", "5", "8", "9"]


def test_a_kill_anywhere_in_a_rollback_is_made_good(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for name in ("none", "write_checkpoint", "append", "release", "clear"):
        fed = federation(tmp_path / name, north, south, rounds=5, outer=NESTEROV)
        run_until(fed, 2)
        if name != "none":
            with monkeypatch.context() as patch:
                for where, what in (
                    ("gobelin.server.rollback.write_checkpoint", "write_checkpoint"),
                    ("gobelin.server.ledger.RoundLedger.append", "append"),
                    ("gobelin.server.publisher.Publisher.release", "release"),
                    ("gobelin.server.journal.Journal.clear", "clear"),
                ):
                    if what == name:
                        patch.setattr(where, _dies)
                with pytest.raises(Killed):
                    back(fed, "round-1")
        if fed.home.sealed_rounds()[-1] == 2:
            back(fed, "round-1")
        fed.run()
        digests.add(fed.digest())
        assert (fed.home.releases / "release-00003").exists()
        verify(fed.home.folder)
    assert len(digests) == 1


def _dies(*args: object, **more: object) -> None:
    raise Killed


def test_what_was_in_the_open_round_is_dropped_and_told(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    south.answer = lambda plan, base: [] if plan.round == 3 else [(0.5, south.reply(plan, base))]
    fed = federation(tmp_path, north, south, rounds=5, grace_s=None)
    with monkeypatch.context() as patch:
        kill_at(patch, "round_void", 3)
        with pytest.raises(Killed):
            fed.run()
    assert [type(e) for e in Journal(fed.home.journal).events()].count(Counted) == 1
    assert back(fed, "round-1")["dropped"] == 1
    assert Journal(fed.home.journal).events() == []
    fed.run()
    assert fed.home.sealed_rounds() == [0, 1, 2, 3, 4, 5]


def test_to_a_release_whose_checkpoint_is_gone(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=6, release_every=2, outer=NESTEROV)
    run_until(fed, 4)
    remove_folder(fed.home.round_folder(2))
    assert back(fed, "2")["state"] == "anew"
    assert "outer" not in fed.sealed(5).extra
    assert (
        fed.sealed(5).vector.digest
        == read_checkpoint(fed.home.releases / "release-00002").vector.digest
    )
    fed.run()
    assert fed.home.sealed_rounds()[-1] == 6


def test_what_is_refused_changes_nothing(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=2)
    fed.run()
    for to, why, error in (
        ("round-1", "late", StateError),  # no round is left
        ("round-2", "same", StateError),
        ("round-7", "later", StateError),
        ("yesterday", "x", ConfigError),
        ("round-1", " ", ConfigError),
        ("round-1", "naïve", ConfigError),
    ):
        with pytest.raises(error):
            back(fed, to, why)
    assert fed.home.sealed_rounds() == [0, 1, 2]
    settings = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(settings.replace("rounds = 2", "rounds = 4"))
    with sole_owner(fed.home.folder), pytest.raises(InUseError, match="already running"):
        back(fed, "round-1")
    remove_folder(fed.home.round_folder(1))
    with pytest.raises(StateError, match="neither a checkpoint nor a release of round 1"):
        back(fed, "round-1")
    checkpoint = fed.sealed(2)
    write_checkpoint(fed.home.round_folder(1), checkpoint.recipe, checkpoint.vector, {"round": 1})
    with pytest.raises(StateError, match="not what the ledger has"):
        back(fed, "round-1")


def test_the_command_tells_what_was_done(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=4)
    run_until(fed, 2)
    words = ["rollback", "--to", "round-0", "--reason", "try again", "--home", str(fed.home.folder)]
    done = CliRunner().invoke(cli.app, [*words, "--json"], catch_exceptions=False)
    told = json.loads(done.output)
    assert (told["round"], told["to"], told["release"]) == (3, 0, "release-00003")
    assert fed.events("rolled_back")[0]["why"] == "try again"
    status = CliRunner().invoke(cli.app, ["status", "--home", str(fed.home.folder)])
    assert status.exit_code == 0
    assert AggregatorHome(fed.home.folder).latest()[0] == 3

"""`gobelin verify`, exports, replays, and another aggregator that goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gobelin.server.export import export
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.takeover import take_over
from gobelin.shared.checkpoint import _digest_of
from gobelin.shared.errors import (
    GobelinError,
    LedgerError,
    RosterError,
    StateError,
    TwoHistoriesError,
)
from gobelin.shared.files import json_bytes, remove_folder, write_json
from gobelin.shared.ledger import entry_of
from tests.office import listen_on
from tests.server.ledger.witness import (
    NESTEROV,
    ROUNDS,
    Witness,
    ca,
    silent,
    verify,
)
from tests.server.world import DEADLINE, Federation, Killed, Node, World, federation


def test_the_command_checks_a_home_an_export_a_release_and_replays(
    home: AggregatorHome, tmp_path: Path
) -> None:
    told = verify(home.folder, "--key", ca(home), "--replay", "--influence")
    assert (told["kind"], told["rounds"], told["key_pinned"]) == ("history", ROUNDS, True)
    assert told["replayed"] == list(range(1, ROUNDS + 1))
    assert told["releases"] == ["release-00002", "release-00004"]
    assert told["influence"]["north"]["counted"] == ROUNDS
    export(home, tmp_path / "small")
    small = verify(tmp_path / "small")
    assert (small["sealed"], small["key_pinned"]) == (3, False)  # two may be answered late
    export(home, tmp_path / "whole", replay=True)
    assert verify(tmp_path / "whole", "--replay")["replayed"] == told["replayed"]
    names = {path.name for path in (tmp_path / "whole").rglob("*")}
    assert not {name for name in names if name.endswith(".key") or name == "events.jsonl"}
    with pytest.raises(StateError, match="not empty"):
        export(home, tmp_path / "whole")
    with pytest.raises(StateError):
        verify(tmp_path)


def test_an_export_in_the_middle_of_a_seal_is_of_the_rounds_before(
    home: AggregatorHome, tmp_path: Path
) -> None:
    (home.ledger / "heads" / f"{ROUNDS + 1:05d}.note").unlink()
    assert export(home, tmp_path / "export")["rounds"] == ROUNDS - 1
    told = verify(tmp_path / "export")
    assert (told["rounds"], told["sealed"]) == (ROUNDS - 1, 3)
    assert told["releases"] == ["release-00002"]
    shutil.copytree(home.releases, tmp_path / "export" / "releases", dirs_exist_ok=True)
    with pytest.raises(TwoHistoriesError, match="release-00004"):
        verify(tmp_path / "export")


def test_without_an_archive_a_replay_says_what_is_missing(home: AggregatorHome) -> None:
    shutil.rmtree(home.archive / "round-00003")
    with pytest.raises(LedgerError, match=r"round 3.*not in the archive") as told:
        verify(home.folder, "--replay")
    assert "ask for the archive of this round again" in told.value.remedy


def test_what_mends_an_empty_archive_is_told_by_what_has_emptied_it(
    home: AggregatorHome, tmp_path: Path
) -> None:
    export(home, tmp_path / "export")
    shutil.rmtree(home.archive)
    text = home.settings_file.read_text()
    settings = {
        "restore archive/ from a backup": text,
        "raise retention.archives": text.replace("[retention]\n", "[retention]\narchives = 0\n"),
        "set rounds.archive = true": text.replace("archive = true", "archive = false"),
    }
    for remedy, written in settings.items():
        home.settings_file.write_text(written)
        with pytest.raises(LedgerError, match=r"round 1.*not in the archive") as told:
            verify(home.folder, "--replay")
        assert remedy in told.value.remedy
    with pytest.raises(LedgerError, match="not in the archive") as told:
        verify(tmp_path / "export", "--replay")
    assert told.value.remedy == "export once more, with --replay"


def test_a_federation_that_archives_nothing_is_told_which_setting_says_so(tmp_path: Path) -> None:
    nodes = [Node("a"), Node("b")]
    fed = federation(tmp_path, *nodes, rounds=1, archive=True, retention={"archives": 0})
    fed.run()
    with pytest.raises(LedgerError, match=r"round 1.*not in the archive") as told:
        verify(fed.home.folder, "--replay")
    assert "raise retention.archives" in told.value.remedy


def rewritten(home: AggregatorHome, number: int, change: Any) -> None:
    """The aggregator seals a round with other facts, and signs a ledger of that."""
    path = home.round_folder(number) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest["facts"])
    del manifest["manifest_digest"]
    path.write_bytes(json_bytes({**manifest, "manifest_digest": _digest_of(manifest)}))
    shutil.rmtree(home.ledger / "rounds")
    shutil.rmtree(home.ledger / "heads")
    shutil.rmtree(home.releases)
    RoundLedger(home, silent).mend()


def test_an_aggregator_that_reweights_and_signs_it_is_found_out_by_replay(
    home: AggregatorHome,
) -> None:
    def reweight(facts: dict[str, Any]) -> None:
        facts["contributions"][0]["weight"] = 0.25

    rewritten(home, 2, reweight)
    verify(home.folder)  # all of it is signed
    with pytest.raises(LedgerError, match="round 2 differs: the weight of"):
        verify(home.folder, "--replay")


def test_an_aggregator_that_leaves_a_contribution_out_is_found_out_by_replay(
    home: AggregatorHome,
) -> None:
    def drop(facts: dict[str, Any]) -> None:
        facts["contributions"][1:] = []
        facts["contributions"][0]["weight"] = 1.0

    rewritten(home, 3, drop)
    with pytest.raises(LedgerError, match="round 3 differs"):
        verify(home.folder, "--replay")


def test_a_changed_contribution_in_the_archive_names_its_round(home: AggregatorHome) -> None:
    file = sorted((home.archive / "round-00002").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(LedgerError, match="round 2"):
        verify(home.folder, "--replay")


def test_a_sealed_round_that_was_changed_is_found(home: AggregatorHome) -> None:
    manifest = home.manifest(1)
    manifest["facts"]["seconds"] = 1.25
    write_json(home.round_folder(1) / "manifest.json", manifest)
    with pytest.raises(GobelinError):
        verify(home.folder)
    assert entry_of(manifest).record.round == 1


def test_a_kill_between_archive_and_seal_archives_the_round_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = federation(tmp_path, Node("a"), Node("b"), archive=True, max_staleness=0)
    with monkeypatch.context() as patch:

        def dying(*arguments: object) -> None:
            raise Killed

        patch.setattr("gobelin.server.seal.write_checkpoint", dying)
        with pytest.raises(Killed):
            fed.run()
    assert (fed.home.archive / "round-00001").is_dir()
    fed.run()
    told = verify(fed.home.folder, "--replay")
    assert told["replayed"] == [1, 2]


def with_rounds(home: AggregatorHome, rounds: int) -> None:
    settings = home.settings_file.read_text()
    home.settings_file.write_text(settings.replace(f"rounds = {ROUNDS}", f"rounds = {rounds}"))


def test_another_aggregator_goes_on_to_the_same_bits_from_public_files_alone(
    made: Federation, home: AggregatorHome, node: Witness, tmp_path: Path
) -> None:
    listen_on(home, "10.0.0.5")  # of the machine before
    export(home, tmp_path / "export")
    public = home.signing_key().public
    take_over(tmp_path / "new", tmp_path / "export", public, "127.0.0.1:0")
    new = AggregatorHome(tmp_path / "new")
    assert new.settings().network.local == "127.0.0.1"
    assert new.signing_key().public != public
    assert [node.id for node in new.roster().nodes] == [node.id for node in home.roster().nodes]
    before = verify(new.folder, "--key", ca(new))
    assert (before["rounds"], before["cosignatures"]) == (ROUNDS, 2 * ROUNDS + 2)
    digests = []
    for place in (home, new):
        with_rounds(place, ROUNDS + 1)
        fed = made.moved(tmp_path)
        fed.home, fed.world = place, World(*made.world.all.values())
        fed.run()
        digests.append(fed.digest())
    assert digests[0] == digests[1]
    told = verify(new.folder, "--key", ca(new))
    assert told["rounds"] == ROUNDS + 1
    shutil.copyfile(ca(new), node.home.ca_file)  # the member pins the new one
    last = next(p for p in fed.world.parcels if p.node == node.id)
    node.hear(last)
    with pytest.raises(StateError, match="not empty"):
        take_over(tmp_path / "new", tmp_path / "export", public, "127.0.0.1:0")


def test_the_roster_log_is_the_one_that_rounds_name(home: AggregatorHome, tmp_path: Path) -> None:
    assert home.facts(ROUNDS)["roster_digest"] == home.book.log().head
    export(home, tmp_path / "export")
    log = tmp_path / "export" / "roster" / "log.jsonl"
    whole = log.read_bytes()
    assert whole == home.roster_file.read_bytes()
    log.write_bytes(whole[: whole.index(b"\n") + 1])  # the second node was never admitted
    with pytest.raises(LedgerError, match="the roster of round 1 is missing"):
        verify(tmp_path / "export")
    log.write_bytes(whole.replace(b'"reason":""', b'"reason":"x"', 1))
    with pytest.raises(RosterError):
        verify(tmp_path / "export")
    log.write_bytes(whole)
    settings = tmp_path / "export" / "federation.toml"
    settings.write_text(settings.read_text().replace('name = "fed"', 'name = "other"'))
    with pytest.raises(RosterError, match="another federation"):
        verify(tmp_path / "export")


def test_rounds_name_the_roster_that_they_were_sealed_with(tmp_path: Path) -> None:
    third = Node("c")
    fed = federation(tmp_path, Node("a"), Node("b"), rounds=2)
    fed.world.all[third.id] = third
    sealed: list[str] = []

    def grow(event: Mapping[str, Any]) -> None:
        if event["event"] == "round_sealed":
            sealed.append(fed.home.facts(event["round"])["roster_digest"])
            fed.admit(third)

    record = fed.home.record
    fed.home.record = lambda event: (record(event), grow(event))[0]  # type: ignore[method-assign]
    fed.run()
    assert len(set(sealed)) == 2
    assert sealed[1] == fed.home.book.log().head
    assert verify(fed.home.folder)["contributions"] == 5


def test_an_export_that_does_not_hold_is_not_taken_over(
    home: AggregatorHome, tmp_path: Path
) -> None:
    export(home, tmp_path / "export")
    file = tmp_path / "export" / "ledger" / "rounds" / "00002.json"
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.4"))
    with pytest.raises(LedgerError):
        take_over(tmp_path / "new", tmp_path / "export", home.signing_key().public, "127.0.0.1:0")
    assert not (tmp_path / "new").exists()


MANY = {
    "steps of a lossy broadcast": {"broadcast": "int8"},
    "fragments": {"outer": {**NESTEROV, "fragments": 2}, "broadcast": "int4"},
    "moments": {"cross_node": True},
    "a rule under a cap": {"aggregation": {"rule": "clipped_mean"}, "policy": {"cap": 0.6}},
    "a rule that remembers": {"aggregation": {"rule": "centered_clipping"}},
}


@pytest.mark.parametrize("kind", MANY)
def test_rounds_of_every_kind_are_replayed_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    nodes = [Node("a"), Node("b"), Node("c", member="b")]
    fed = federation(tmp_path, *nodes, rounds=3, archive=True, **MANY[kind])
    fed.run()
    assert verify(fed.home.folder, "--replay")["replayed"] == [1, 2, 3]


def test_a_round_with_a_late_contribution_is_replayed_and_told(tmp_path: Path) -> None:
    north, south = Node("north"), Node("south")
    slow = {1: DEADLINE + 5}
    south.answer = lambda plan, base: [
        (slow[plan.round], south.reply(plan, base)) for _ in range(plan.round in slow)
    ]
    north.answer = lambda plan, base: [(20.0, north.reply(plan, base))]
    fed = federation(tmp_path, north, south, rounds=2, min_members=1, archive=True)
    fed.run()
    told = verify(fed.home.folder, "--replay", "--influence")
    assert told["replayed"] == [1, 2]
    assert told["influence"]["south"]["reasons"] == {"absent": 2}
    assert list(told["influence"]["south"]["rounds"]) == ["2"]
    ledger = RoundLedger(fed.home, silent)
    ledger.mend()
    row = ledger.entry(2).find(south.id, 1)
    assert row is not None
    assert ledger.entry(2).rows[row].reduced == "late"


def test_a_round_that_counts_a_late_answer_to_a_plan_that_is_gone_is_not_replayed(
    tmp_path: Path,
) -> None:
    north, south = Node("north"), Node("south")
    south.answer = lambda plan, base: [
        (2 * DEADLINE + 5, south.reply(plan, base)) for _ in range(plan.round == 1)
    ]
    fed = federation(tmp_path, north, south, rounds=4, min_members=1, archive=True)
    fed.run()
    assert [row["staleness"] for row in fed.home.facts(3)["contributions"]] == [0, 2]
    for number in (0, 1):
        remove_folder(fed.home.round_folder(number))
    for number in (1, 2):
        remove_folder(fed.home.archive / f"round-{number:05d}")
    told = verify(fed.home.folder, "--replay")
    assert (told["replayed"], told["not_here"]) == ([4], 3)

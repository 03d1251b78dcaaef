"""Retention: the disk stays bounded, and nothing goes that anybody was promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gobelin.server import cli
from gobelin.server import retention as module
from gobelin.server.leaving import receipts_of
from gobelin.server.retention import RetentionSettings, plan_pruning, prune
from gobelin.server.rollback import roll_back
from gobelin.shared.errors import InUseError, LedgerError, StateError
from gobelin.shared.files import remove_folder
from gobelin.shared.locks import sole_owner
from tests.server.ledger.witness import NESTEROV, silent, verify
from tests.server.sealed_nodes import SealedNode, sealed_federation
from tests.server.world import DEADLINE, Federation, Killed, Node, federation
from tests.vanishing import vanishing

KEPT = {"checkpoints": 4, "archives": 3, "releases": 2, "every": 6}


def names(folder: Path, kind: str) -> list[int]:
    return sorted(int(path.name.removeprefix(f"{kind}-")) for path in folder.glob(f"{kind}-*"))


def size(fed: Federation) -> int:
    """Bytes of all but what grows by design: ledger, events, and releases that stay for ever."""
    grows = (fed.home.ledger, fed.home.events_file, fed.home.releases)
    files = (path for path in fed.home.folder.rglob("*") if path.is_file())
    return sum(f.stat().st_size for f in files if not any(f.is_relative_to(g) for g in grows))


def of(folder: Path, rounds: int, *nodes: Node, **more: object) -> Federation:
    settings = {"release_every": 2, "archive": True, "outer": NESTEROV, "broadcast": "int8", **more}
    return federation(folder, *nodes, rounds=rounds, retention=KEPT, **settings)


def test_a_long_federation_keeps_what_it_needs_and_no_more(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = of(tmp_path, 14, north, south)
    sizes = []
    fed.run()
    assert fed.home.sealed_rounds() == [11, 12, 13, 14]
    assert names(fed.home.archive, "round") == [12, 13, 14]
    assert names(fed.home.releases, "release") == [6, 12, 14]
    for more in (20, 26):
        text = fed.home.settings_file.read_text()
        before = next(n for n in (14, 20) if f"rounds = {n}\n" in text)
        fed.home.settings_file.write_text(
            text.replace(f"rounds = {before}\n", f"rounds = {more}\n")
        )
        fed.run()
        sizes.append(size(fed))
    assert abs(sizes[1] - sizes[0]) < 0.02 * sizes[0]
    told = verify(fed.home.folder, "--replay")
    assert (told["rounds"], told["replayed"], told["not_here"]) == (26, [24, 25, 26], 23)
    assert "rounds 1 to 23 are not here any more" in told["said"]


def test_the_consensus_is_the_same_with_and_without(
    tmp_path: Path, north: Node, south: Node
) -> None:
    pruned, whole = of(tmp_path / "pruned", 9, north, south), tmp_path / "whole"
    pruned.run()
    fed = federation(
        whole,
        north,
        south,
        rounds=9,
        release_every=2,
        archive=True,
        outer=NESTEROV,
        broadcast="int8",
    )
    fed.run()
    assert pruned.digest() == fed.digest()
    assert [node.id for node in (north, south)] == [
        node.id
        for node in (north, south)
        if receipts_of(pruned.home, node.id, pruned.home.sealed_rounds())
        == receipts_of(fed.home, node.id, fed.home.sealed_rounds())
    ]


def test_what_is_not_set_stays_and_what_may_be_answered_late_too(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=6, release_every=1)
    fed.run()
    assert plan_pruning(fed.home, RetentionSettings(), 2).folders == ()
    least = RetentionSettings(checkpoints=1, releases=1)
    found = plan_pruning(fed.home, least, max_staleness=2, tell=True)
    left = set(fed.home.rounds.iterdir()) - set(found.folders) - {fed.home.rounds / ".lock"}
    assert sorted(path.name for path in left) == ["round-00004", "round-00005", "round-00006"]
    assert names(fed.home.releases, "release") == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in found.folders if path.parent == fed.home.releases} == {
        *("release-00001", "release-00002", "release-00003", "release-00004")
    }
    assert found.bytes > 0
    assert found.replayable is None


def test_the_first_models_digest_is_the_ledgers_where_its_round_goes_as_it_is_read(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    known = fed.home.genesis()
    with vanishing(fed.home.round_folder(0)):
        assert fed.home.genesis() == known


def test_a_gap_that_retention_would_not_leave_is_damage(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = of(tmp_path, 8, north, south)
    fed.run()
    remove_folder(fed.home.archive / "round-00007")
    with pytest.raises(LedgerError, match=r"round 7.* is not in the archive"):
        verify(fed.home.folder, "--replay")


def test_a_kill_between_two_removals_is_made_good(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = federation(tmp_path, north, south, rounds=8, archive=True)
    fed.run()
    settings = RetentionSettings(checkpoints=3, archives=2)
    for least in range(1, 4):
        removed: list[Path] = []

        def dying(folder: Path, removed: list[Path] = removed, least: int = least) -> None:
            if len(removed) == least:
                raise Killed
            removed.append(folder)
            remove_folder(folder)

        with monkeypatch.context() as patch:
            patch.setattr(module, "remove_folder", dying)
            with pytest.raises(Killed):
                prune(fed.home, settings, 2)
        verify(fed.home.folder)
    prune(fed.home, settings, 2)
    assert fed.home.sealed_rounds() == [6, 7, 8]
    assert verify(fed.home.folder, "--replay")["replayed"] == [7, 8]
    assert plan_pruning(fed.home, settings, 2).folders == ()


def test_a_pruned_federation_goes_back_to_a_release_that_stays(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = of(tmp_path, 8, north, south)
    fed.run()
    text = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(text.replace("rounds = 8\n", "rounds = 11\n"))
    with pytest.raises(StateError, match="neither a checkpoint nor a release of round 3"):
        roll_back(fed.home, "3", "x", silent)
    assert roll_back(fed.home, "6", "x", silent)["state"] == "kept"
    fed.run()
    told = verify(fed.home.folder, "--replay")
    assert told["replayed"][-1] == 11
    assert told["rollbacks"] == [{"round": 9, "to": 6, "why": "x"}]


def test_the_command_says_what_would_go_and_what_can_still_be_replayed(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=6, archive=True)
    fed.run()
    text = fed.home.settings_file.read_text()
    kept = "[retention]\ncheckpoints = 3\narchives = 2\n"
    fed.home.settings_file.write_text(text.replace("[retention]\n", kept))
    words = ["prune", "--home", str(fed.home.folder)]
    dry = CliRunner().invoke(cli.app, [*words, "--dry-run", "--json"], catch_exceptions=False)
    told = json.loads(dry.output)
    assert (len(told["folders"]), told["replayable_from"]) == (8, 5)
    assert len(fed.home.sealed_rounds()) == 7
    with sole_owner(fed.home.folder):
        busy = CliRunner().invoke(cli.app, words)
    assert isinstance(busy.exception, InUseError)
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert "removed 8 folders" in done.output
    assert "replays start at round 5" in done.output
    assert fed.home.sealed_rounds() == [4, 5, 6]


def edit(fed: Federation, before: str, after: str) -> None:
    text = fed.home.settings_file.read_text()
    assert before in text
    fed.home.settings_file.write_text(text.replace(before, after))


def said_and_true(fed: Federation, **kept: int) -> tuple[int | None, int]:
    """Where replays start by what is said before a pruning, and where they do after it."""
    settings = RetentionSettings.model_validate(kept)
    said = plan_pruning(fed.home, settings, max_staleness=2, tell=True).replayable
    prune(fed.home, settings, max_staleness=2)
    return said, verify(fed.home.folder, "--replay")["not_here"] + 1


def test_replays_start_where_it_is_said_though_the_plan_of_a_late_answer_goes(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [
        (2 * DEADLINE + 5, south.reply(plan, base)) for _ in range(plan.round == 1)
    ]
    fed = federation(tmp_path, north, south, rounds=4, min_members=1, archive=True)
    fed.run()
    assert [row["staleness"] for row in fed.home.facts(3)["contributions"]] == [0, 2]
    assert said_and_true(fed, archives=3) == (2, 2)
    assert said_and_true(fed, checkpoints=3, archives=2) == (4, 4)


def test_replays_start_where_it_is_said_behind_a_rollback(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=3, archive=True)
    fed.run()
    edit(fed, "rounds = 3\n", "rounds = 6\n")
    assert roll_back(fed.home, "2", "x", silent)["round"] == 4
    fed.run()
    assert said_and_true(fed, archives=4) == (3, 3)
    assert said_and_true(fed, archives=2) == (5, 5)


def test_replays_start_where_it_is_said_before_rounds_that_are_sealed(tmp_path: Path) -> None:
    nodes = [SealedNode(name) for name in ("east", "north", "south")]
    for node in nodes:
        masked, open_ = node.announce, node.reply
        node.answer = lambda plan, base, masked=masked, open_=open_: [
            (0.5, masked(plan, base) if plan.sealed else open_(plan, base))
        ]
    fed = sealed_federation(tmp_path, nodes, sealed=False, archive=True)
    fed.run()
    edit(fed, "rounds = 2\n", "rounds = 4\n")
    edit(fed, "archive = true", "archive = false")
    edit(fed, "sealed = false", "sealed = true")
    fed.run()
    assert said_and_true(fed, archives=3) == (2, 2)
    none = RetentionSettings(archives=2)  # what is left then is believed, not computed
    assert plan_pruning(fed.home, none, 2, tell=True).replayable is None


def test_of_an_archive_with_a_gap_no_replay_is_promised(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=4, archive=True)
    fed.run()
    remove_folder(fed.home.archive / "round-00002")
    assert plan_pruning(fed.home, RetentionSettings(), 2, tell=True).replayable is None
    with pytest.raises(LedgerError, match=r"round 2.* is not in the archive"):
        verify(fed.home.folder, "--replay")
    assert said_and_true(fed, archives=2) == (3, 3)


@pytest.mark.slow
def test_the_disk_stays_bounded_over_a_thousand_rounds(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = of(tmp_path, 200, north, south, release_every=50)
    fed.run()
    first = size(fed)
    text = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(text.replace("rounds = 200\n", "rounds = 1000\n"))
    fed.run()
    assert size(fed) < 1.05 * first
    assert len(fed.home.sealed_rounds()) == 4
    assert verify(fed.home.folder)["rounds"] == 1000

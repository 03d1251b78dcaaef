"""Commands that end by themselves, beside an aggregator that seals, releases and removes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gobelin.server import replay as replaying
from gobelin.server import verify as verifying
from gobelin.server.archive import Archive
from gobelin.server.details import round_detail
from gobelin.server.doctor.standing import ledger as check_ledger
from gobelin.server.export import export
from gobelin.server.leaving import receipts_of
from gobelin.server.observer import Observer
from gobelin.server.places import Places
from gobelin.server.sealed_rounds import SealedRounds
from gobelin.server.verify import verify_home
from gobelin.shared import shelf
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.files import remove_folder
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.locks import sole_owner
from tests.server.test_rollback import run_until
from tests.server.world import Federation, Node, federation

SETTINGS = {
    "rounds": 10,
    "release_every": 2,
    "retention": {"checkpoints": 1, "releases": 2, "every": 100},
}


@pytest.fixture
def fed(tmp_path: Path, north: Node, south: Node) -> Iterator[Federation]:
    """Four of ten rounds are sealed, and the aggregator is up."""
    made = federation(tmp_path / "fed", north, south, **SETTINGS)
    run_until(made, 4)
    with sole_owner(made.home.rounds):
        yield made


def then(patch: pytest.MonkeyPatch, owner: Any, name: str, goes_on: Callable[[], object]) -> None:
    """The aggregator goes on right after the first call of a function."""
    call = getattr(owner, name)

    def called(*given: Any, **named: Any) -> Any:
        found = call(*given, **named)
        patch.setattr(owner, name, call)
        goes_on()
        return found

    patch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("owner", "name"), [(LedgerFolder, "numbers"), (verifying, "verify_history")]
)
def test_what_is_sealed_and_removed_while_it_is_verified_is_no_other_history(
    fed: Federation, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    then(monkeypatch, owner, name, fed.run)
    told = verify_home(fed.home, fed.home.aggregator_key())
    assert (told["rounds"], told["sealed"], told["releases"]) == (4, 0, [])
    assert fed.home.sealed_rounds() == [8, 9, 10]
    assert verify_home(fed.home, fed.home.aggregator_key())["rounds"] == 10


@pytest.mark.parametrize(("until", "replayed"), [(6, [4]), (10, [])])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (verifying, "verify_history"),
        (Archive, "rounds"),
        (replaying, "read_checkpoint"),
        (replaying, "row_of"),
        (replaying, "entry_of"),
    ],
)
def test_a_replay_is_of_what_is_still_there(
    tmp_path: Path,
    north: Node,
    south: Node,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    until: int,
    replayed: list[int],
) -> None:
    retention = {**SETTINGS["retention"], "archives": 2}
    fed = federation(tmp_path, north, south, **{**SETTINGS, "retention": retention}, archive=True)
    run_until(fed, 4)
    key = fed.home.aggregator_key()
    with sole_owner(fed.home.rounds):
        assert verify_home(fed.home, key, replayed=True)["replayed"] == [2, 3, 4]
        then(monkeypatch, owner, name, lambda: run_until(fed, until))
        told = verify_home(fed.home, key, replayed=True)
    assert (told["rounds"], told["replayed"]) == (4, replayed)
    assert told["not_here"] == 4 - len(replayed)
    assert f"rounds 1 to {told['not_here']} are not here any more" in told["said"]


def test_a_round_that_is_about_to_be_in_the_ledger_is_passed_over_while_the_aggregator_is_up(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fed.home.ledger / "rounds" / "00004.json").unlink()
    (fed.home.ledger / "heads" / "00005.note").unlink()
    shutil.rmtree(fed.home.releases / "release-00004")  # it comes behind both
    assert verify_home(fed.home, fed.home.aggregator_key())["rounds"] == 3


def test_the_doctor_accuses_nobody_of_a_round_that_is_sealed_while_it_looks(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    then(monkeypatch, Places, "sealed_rounds", lambda: run_until(fed, 5))
    assert check_ledger(fed.home).code == ""


def test_an_export_is_of_what_is_still_there(
    fed: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree = shutil.copytree

    def copy(source: Path, target: Path) -> Any:
        monkeypatch.setattr(shutil, "copytree", copytree)
        run_until(fed, 7)
        return copytree(source, target)

    monkeypatch.setattr(shutil, "copytree", copy)
    told = export(fed.home, tmp_path / "export")
    assert (told["rounds"], told["rounds_exported"]) == (4, 1)
    exported = type(fed.home)(tmp_path / "export")
    assert verify_home(exported, fed.home.aggregator_key())["releases"] == ["release-00004"]


def test_an_export_whose_consensus_goes_meanwhile_is_none(
    fed: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then(monkeypatch, Places, "sealed_rounds", fed.run)
    with pytest.raises(StateError, match="export again"):
        export(fed.home, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_who_leaves_while_rounds_are_removed_is_told_all_receipts(
    fed: Federation, north: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = fed.home.sealed_rounds()
    wanted = receipts_of(fed.home, north.id, sealed)
    remove_folder(fed.home.round_folder(sealed[0]))
    assert receipts_of(fed.home, north.id, sealed) == wanted
    assert len(wanted) == 4


def test_who_looks_while_rounds_and_releases_are_removed_sees_the_others(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = fed.home.releases / "release-00002"
    observer, stamp, manifest = Observer(fed.home), shelf._stamp, Places.manifest
    first = fed.home.sealed_rounds()[0]

    def stamped(folder: Path) -> int:
        if folder == gone and gone.exists():
            remove_folder(gone)
        return stamp(folder)

    def read(self: Places, number: int) -> dict[str, Any]:
        found = manifest(self, number)
        if number == first:
            remove_folder(self.round_folder(number))
        return found

    monkeypatch.setattr(shelf, "_stamp", stamped)
    monkeypatch.setattr(Places, "manifest", read)
    seen = observer.look()
    assert [one.name for one in seen.releases] == ["release-00004"]
    assert seen.sealed == 4
    with pytest.raises(ConfigError, match="not sealed here"):
        round_detail(observer, first)
    assert json.dumps(seen.facts())
    assert SealedRounds(fed.home).refresh()

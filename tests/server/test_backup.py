"""Backup and restore: while it runs, to the byte, and never a second history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.client.backup import back_up_home as back_up_node
from gobelin.client.backup import restore_home as restore_node
from gobelin.client.home import PrivacySettings
from gobelin.client.ledger import NodeLedger
from gobelin.client.retention import prune as prune_node
from gobelin.server import cli
from gobelin.server.backup import back_up_home, restore_home
from gobelin.server.export import export
from gobelin.server.home import AggregatorHome
from gobelin.server.rollcall import confirm, is_restored
from gobelin.server.takeover import take_over
from gobelin.shared import backup as module
from gobelin.shared.backup import latest, snapshots
from gobelin.shared.errors import (
    ConfigError,
    FormatError,
    InUseError,
    LaterHistoryError,
    PrivacyError,
    RoundError,
    StateError,
    TwoHistoriesError,
)
from gobelin.shared.files import remove_folder
from gobelin.shared.locks import sole_owner
from gobelin.shared.settings import write_settings
from tests.beside import Beside
from tests.server.ledger.witness import NESTEROV, Listening, Witness, ca, listening, verify
from tests.server.test_rollback import run_until
from tests.server.world import Federation, Killed
from tests.vanishing import vanishing

PASS = "correct horse battery"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The consensus of every round of a federation that nothing happened to."""
    fed = of(tmp_path_factory.mktemp("straight"))
    fed.run()
    return [fed.sealed(number).vector.digest for number in fed.home.sealed_rounds()]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "COST", 1 << 4)
    return


def of(folder: Path, **rounds: Any) -> Federation:
    return listening(folder, **{"rounds": 5, "outer": NESTEROV, "archive": True, **rounds})


def again(fed: Federation, folder: Path) -> Federation:
    """The same nodes, and a home that was restored."""
    other = object.__new__(Federation)
    other.home, other.world = AggregatorHome(folder), Listening(*fed.world.all.values())
    return other


def accused(fed: Federation) -> bool:
    nodes = (node for node in fed.world.all.values() if isinstance(node, Witness))
    return any(list(node.home.heads.glob("other-*")) for node in nodes)


@pytest.mark.parametrize("name", ["folder", "file.tar"])
def test_a_restored_federation_goes_on_to_the_same_consensus(
    tmp_path: Path, name: str, straight: list[str]
) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    told = back_up_home(fed.home, tmp_path / name, PASS)
    assert told["state"]["sealed"] == 2
    restored = tmp_path / "restored"
    assert restore_home(tmp_path / name, restored, PASS)["sealed"] == 2
    keys = sorted(path.name for path in fed.home.tls.iterdir())
    assert sorted(path.name for path in (restored / "tls").iterdir()) == keys
    assert (restored / "tls" / "signing.key").stat().st_mode & 0o777 == 0o600
    other = again(fed, restored)
    other.run()
    assert [e["nodes"] for e in other.events("restore_confirmed")] == [{"north": 2, "south": 2}]
    assert not is_restored(restored)
    assert [fed.sealed(2).vector.digest, other.digest()] == [straight[2], straight[5]]
    assert verify(restored, "--replay")["replayed"] == [1, 2, 3, 4, 5]


def test_a_backup_while_rounds_run_is_of_the_last_sealed_one(tmp_path: Path) -> None:
    fed = of(tmp_path)

    def on_the_way() -> None:
        back_up_home(fed.home, tmp_path / "backup", None)

    fed.world.happenings += [(at, on_the_way) for at in (0.2, 1.1, 2.3)]
    fed.run()
    numbers = snapshots(tmp_path / "backup")
    assert len(numbers) == 3
    for number in numbers:
        restored = tmp_path / f"restored-{number}"
        told = restore_home(tmp_path / "backup", restored, None, number=number)
        assert verify(restored, "--key", ca(fed.home))["rounds"] == told["sealed"]
        assert not list((restored / "tls").glob("*.key"))


def test_members_who_know_more_stop_a_restored_aggregator_and_accuse_nobody(
    tmp_path: Path,
) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    back_up_home(fed.home, tmp_path / "old", PASS)
    run_until(fed, 4)
    restore_home(tmp_path / "old", tmp_path / "restored", PASS)
    other = again(fed, tmp_path / "restored")
    with pytest.raises(LaterHistoryError, match=r"has cosigned 3 sealed rounds, .* with 2") as told:
        other.run()
    assert told.value.exit_code == 42
    assert "--with" in told.value.remedy
    assert other.home.sealed_rounds() == [0, 1, 2]
    assert not accused(fed)


def test_an_export_brings_a_backup_up_to_what_members_know(
    tmp_path: Path, straight: list[str]
) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    back_up_home(fed.home, tmp_path / "old", PASS)
    run_until(fed, 4)
    export(fed.home, tmp_path / "export")
    told = restore_home(tmp_path / "old", tmp_path / "new", PASS, tmp_path / "export")
    assert (told["sealed"], told["backup_sealed"]) == (4, 2)
    other = again(fed, tmp_path / "new")
    other.run()
    assert other.digest() == straight[5]
    assert not accused(fed)


def test_an_export_of_another_history_or_an_older_one_is_refused(tmp_path: Path) -> None:
    fed = of(tmp_path)
    run_until(fed, 1)
    export(fed.home, tmp_path / "early")
    run_until(fed, 3)
    back_up_home(fed.home, tmp_path / "backup", PASS)
    with pytest.raises(TwoHistoriesError, match="ends before round 2"):
        restore_home(tmp_path / "backup", tmp_path / "new", PASS, tmp_path / "early")
    assert not (tmp_path / "new").exists()


def test_a_restore_waits_for_a_quorum_and_every_node_that_is_online(tmp_path: Path) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    back_up_home(fed.home, tmp_path / "backup", PASS)
    restore_home(tmp_path / "backup", tmp_path / "new", PASS)
    other = again(fed, tmp_path / "new")
    (first, second) = other.world.all.values()
    second.online = False
    with pytest.raises(RoundError, match="1 of 2 members"):
        other.run()
    assert is_restored(other.home.folder)

    def back() -> None:
        second.online = True

    other.world.happenings.append((other.world.now + 40, back))
    other.run()
    assert other.home.sealed_rounds()[-1] == 5
    assert first.online


def test_the_operator_may_vouch_that_nobody_knows_more(tmp_path: Path) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    back_up_home(fed.home, tmp_path / "backup", PASS)
    restore_home(tmp_path / "backup", tmp_path / "new", PASS)
    words = ["resume", "--trust-restore", "--home", str(tmp_path / "new")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert not is_restored(tmp_path / "new")
    confirm(tmp_path / "new")  # again is nothing


def test_the_next_backup_copies_only_what_is_new(tmp_path: Path) -> None:
    fed = of(tmp_path, rounds=3)
    run_until(fed, 2)
    first = back_up_home(fed.home, tmp_path / "backup", None)
    same = back_up_home(fed.home, tmp_path / "backup", None)
    fed.run()
    third = back_up_home(fed.home, tmp_path / "backup", None)
    assert same["copied_bytes"] == 0
    assert 0 < third["copied_bytes"] < first["copied_bytes"]
    assert snapshots(tmp_path / "backup") == [1, 2, 3]


def test_two_backups_into_one_folder_at_once_are_two_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = of(tmp_path, rounds=1)
    run_until(fed, 1)
    other = Beside(lambda: back_up_home(fed.home, tmp_path / "backup", None))
    count = module.snapshots

    def counted(store: Path) -> list[int]:
        found = count(store)
        if (store / "objects").exists():
            other.step()
        return found

    monkeypatch.setattr(module, "snapshots", counted)
    ours = back_up_home(fed.home, tmp_path / "backup", None)
    assert {ours["snapshot"], other.end()["snapshot"]} == {
        *("snapshot-00001.json", "snapshot-00002.json")
    }


def test_a_backup_that_is_cut_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = of(tmp_path, rounds=3)
    run_until(fed, 1)
    back_up_home(fed.home, tmp_path / "backup", PASS)
    fed.run()
    keep, left = module._keep, 5

    def dying(*parts: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return keep(*parts)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_keep", dying)
        with pytest.raises(Killed):
            back_up_home(fed.home, tmp_path / "backup", PASS)
    assert restore_home(tmp_path / "backup", tmp_path / "new", PASS)["sealed"] == 1


def test_what_is_pruned_while_it_is_copied_is_left_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = of(tmp_path)
    fed.run()
    keep = module._keep

    def pruning(home: Path, path: Path, *parts: Any) -> Any:
        if path.parent == fed.home.round_folder(2) and path.exists():
            remove_folder(path.parent)
        return keep(home, path, *parts)

    monkeypatch.setattr(module, "_keep", pruning)
    back_up_home(fed.home, tmp_path / "backup", None)
    restore_home(tmp_path / "backup", tmp_path / "new", None)
    assert AggregatorHome(tmp_path / "new").sealed_rounds() == [0, 1, 3, 4, 5]


def test_what_goes_while_a_home_is_gone_through_is_left_out(tmp_path: Path) -> None:
    for name in ("round-00001", "round-00002"):
        (tmp_path / "rounds" / name).mkdir(parents=True)
        (tmp_path / "rounds" / name / "manifest.json").touch()
    with vanishing(tmp_path / "rounds" / "round-00001"):
        found = module.files_under(tmp_path, "rounds", but=lambda path: False)
    assert found == [tmp_path / "rounds" / "round-00002" / "manifest.json"]


def test_what_does_not_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    fed = of(tmp_path, rounds=1)
    fed.run()
    store, new = tmp_path / "backup", tmp_path / "new"
    back_up_home(fed.home, store, PASS)
    secret = (fed.home.tls / "signing.key").read_bytes()
    assert not [f for f in store.rglob("*") if f.is_file() and secret in f.read_bytes()]
    with pytest.raises(ConfigError, match="does not open the keys"):
        restore_home(store, new, "another one")
    with pytest.raises(StateError, match="not empty"):
        restore_home(store, fed.home.folder, PASS)
    new.mkdir()
    with sole_owner(new), pytest.raises(InUseError, match="is running on"):
        restore_home(store, new, PASS)
    shutil.rmtree(new)
    with pytest.raises(StateError, match="holds no backup 7"):
        restore_home(store, new, PASS, number=7)
    with pytest.raises(StateError, match="is no backup"):
        restore_home(tmp_path / "nothing.tar", new, PASS)
    file = store / "snapshot-00001.json"
    text = file.read_text()
    file.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatError, match="backup is of version 2"):
        restore_home(store, new, PASS)
    file.write_text(text.replace('"recipe.toml"', '"../recipe.toml"'))
    with pytest.raises(StateError, match="outside of its home"):
        restore_home(store, new, PASS)
    file.write_text(text)
    digest = latest(store).files["recipe.toml"]["sha256"]
    damaged = store / "objects" / digest[:2] / digest
    damaged.write_bytes(damaged.read_bytes() + b" ")
    with pytest.raises(StateError, match=r"has of recipe.toml is damaged"):
        restore_home(store, new, PASS)
    assert not new.exists()


def test_whoever_has_no_keys_any_more_hands_over_to_new_ones(
    tmp_path: Path, straight: list[str]
) -> None:
    fed = of(tmp_path)
    run_until(fed, 2)
    back_up_home(fed.home, tmp_path / "backup", None)
    restore_home(tmp_path / "backup", tmp_path / "bare", None)
    export(AggregatorHome(tmp_path / "bare"), tmp_path / "export")
    public = fed.home.aggregator_key()
    told = take_over(tmp_path / "heir", tmp_path / "export", public, "127.0.0.1:0")
    heir = AggregatorHome(tmp_path / "heir")
    for node in fed.world.all.values():
        assert isinstance(node, Witness)
        node.home.ca_file.write_bytes(ca(heir).read_bytes())
    other = again(fed, tmp_path / "heir")
    other.run()
    assert (told["rounds"], other.home.sealed_rounds()[-1]) == (2, 5)
    assert other.digest() == straight[5]


def test_a_node_comes_back_with_keys_ledgers_and_spool(tmp_path: Path) -> None:
    fed = of(tmp_path, rounds=2)
    fed.run()
    node = next(node for node in fed.world.all.values() if isinstance(node, Witness))
    told = back_up_node(node.home, tmp_path / "backup", PASS)
    assert told["state"]["ledger"] == 2
    restore_node(tmp_path / "backup", tmp_path / "new", PASS)
    place = type(node.home)(tmp_path / "new")
    assert place.id == node.id
    newest, was = NodeLedger(place).newest(), NodeLedger(node.home).newest()
    assert newest is not None
    assert newest == was
    with pytest.raises(StateError, match="backup of a node"):
        restore_home(tmp_path / "backup", tmp_path / "other", PASS)
    assert prune_node(place, 1, 1, dry_run=True) == ["heads/00001.note", "heads/00002.note"]
    prune_node(place, 1, 1)
    assert NodeLedger(place).newest() == newest


def test_a_privacy_budget_is_not_spent_twice_by_a_restore(tmp_path: Path) -> None:
    fed = of(tmp_path, rounds=1)
    node = next(node for node in fed.world.all.values() if isinstance(node, Witness))
    private = PrivacySettings(noise_multiplier=1.0)
    settings = node.home.settings().model_copy(update={"privacy": private})
    write_settings(node.home.settings_file, settings)
    back_up_node(node.home, tmp_path / "backup", PASS)
    with pytest.raises(PrivacyError, match="could be spent twice"):
        restore_node(tmp_path / "backup", tmp_path / "new", PASS)
    assert not (tmp_path / "new").exists()
    restore_node(tmp_path / "backup", tmp_path / "new", PASS, nothing_left_since=True)


def test_the_commands_back_up_and_restore(tmp_path: Path) -> None:
    fed = of(tmp_path, rounds=1)
    fed.run()
    secret, run = tmp_path / "passphrase", CliRunner()
    home = ["--home", str(fed.home.folder)]
    bare = run.invoke(cli.app, ["backup", "--to", str(tmp_path / "b"), *home])
    assert isinstance(bare.exception, ConfigError)
    secret.write_text("short\n")
    words = ["--passphrase-file", str(secret)]
    weak = run.invoke(cli.app, ["backup", "--to", str(tmp_path / "b"), *words, *home])
    assert "8 characters" in str(weak.exception)
    secret.write_text(f"{PASS}\n")
    done = run.invoke(cli.app, ["backup", "--to", str(tmp_path / "b"), *words, *home, "--json"])
    assert json.loads(done.output)["keys"]
    new = ["--home", str(tmp_path / "new")]
    said = run.invoke(cli.app, ["restore", str(tmp_path / "b"), *words, *new])
    assert "restored round 1" in said.output

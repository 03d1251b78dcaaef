"""Releases in a home: nothing is there that does not hold, and nothing is fetched twice."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from gobelin.client import release_store as module
from gobelin.client.home import NodeHome
from gobelin.client.release_cli import app
from gobelin.client.release_source import FolderSource
from gobelin.client.release_store import ReleaseStore
from gobelin.client.retention import prune
from gobelin.shared.errors import (
    FetchError,
    ReleaseError,
    SignatureError,
    StaleError,
    StateError,
    TwoHistoriesError,
    UnreachableError,
)
from gobelin.shared.locks import is_lock
from gobelin.shared.release import release as releases
from gobelin.shared.shelf import Announced, AnnouncedFile, Shelf
from gobelin.shared.signing import public_signing_pem
from tests.keys import signing_key
from tests.releases import write_release

KEY = signing_key(77)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three releases."""
    folder = tmp_path_factory.mktemp("made")
    for number in (2, 4, 6):
        write_release(folder, number, KEY)
    return folder


@pytest.fixture
def shelf(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to do harm to."""
    shutil.copytree(made, tmp_path / "shelf")
    return tmp_path / "shelf"


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """A home that pins their aggregator, and has nothing else."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ca.pem").write_bytes(public_signing_pem(KEY.public))
    return NodeHome(tmp_path / "home")


class Flaky:
    """A source that hands out `most` bytes of a file a call, counts them, and may lie."""

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.source, self.most = FolderSource(folder), most
        self.bytes: list[tuple[str, int, int]] = []  # file, offset, bytes

    def releases(self) -> list[Announced]:
        return self.source.releases()

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        for data in self.source.read(release, file, offset):
            given = data if self.most is None else data[: self.most]
            self.bytes.append((file.name, offset, len(given)))
            yield given
            if self.most is not None:
                raise UnreachableError("the line is cut", "wait")
            offset += len(given)


def get(home: NodeHome, *options: Any) -> Any:
    return CliRunner().invoke(app, ["get", *map(str, options), "--home", str(home.folder)])


def facts(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def names(folder: Path) -> list[str]:
    """What lies in a home beside its pinned key and locks, hidden files too."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name != "ca.pem" and not is_lock(path)
    )


def test_the_newest_release_of_a_stick_is_copied_verified_and_remembered(
    home: NodeHome, shelf: Path
) -> None:
    told = facts(get(home, "--from", shelf, "--json"))
    assert (told["round"], told["folder"]) == (6, str(home.releases / "release-00006"))
    assert told["fetched"] == sum(p.stat().st_size for p in (shelf / "release-00006").iterdir())
    for path in (shelf / "release-00006").iterdir():
        assert (home.releases / "release-00006" / path.name).read_bytes() == path.read_bytes()
    assert json.loads(home.newest_file.read_text())["round"] == 6
    assert not any(home.fetching.glob("*/*"))
    again = facts(get(home, 6, "--json"))  # from nowhere: it is here
    assert (again["fetched"], again["vector_digest"]) == (0, told["vector_digest"])


def test_what_another_command_has_fetched_meanwhile_does_not_come_again(
    home: NodeHome, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, source = module.sole_owner, Flaky(shelf)

    def waited_for(folder: Path) -> Any:
        monkeypatch.setattr(module, "sole_owner", owner)
        ReleaseStore(home).get(FolderSource(shelf), None)
        return owner(folder)

    monkeypatch.setattr(module, "sole_owner", waited_for)
    assert ReleaseStore(home).get(source, None).fetched == 0
    assert source.bytes == []


@pytest.mark.parametrize(
    ("number", "owner", "reads"),
    [
        (None, module, "read_statement"),
        (None, module, "verify_release"),
        (4, module, "verify_release"),
        (4, releases, "verify_folder"),
        (4, releases, "read_checkpoint"),
    ],
)
def test_a_release_that_is_pruned_while_it_is_looked_at_is_fetched_again(
    home: NodeHome,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
    owner: Any,
    reads: str,
) -> None:
    store = ReleaseStore(home)
    store.get(FolderSource(shelf), None)
    shutil.rmtree(shelf / "release-00006")  # the newest is now one that a `prune` may remove
    store.get(FolderSource(shelf), 4, older=True)
    read = getattr(owner, reads)

    def pruned(*given: Any) -> Any:
        monkeypatch.setattr(owner, reads, read)
        assert prune(home, releases=1, heads=1) == ["releases/release-00004"]
        return read(*given)

    monkeypatch.setattr(owner, reads, pruned)
    got = store.get(FolderSource(shelf), number, older=True)
    assert got.fetched > 0
    assert store.verify(got.folder, older=True).statement.round == 4


def test_list_says_what_there_is_and_what_is_here(home: NodeHome, shelf: Path) -> None:
    get(home, 4, "--from", shelf)
    (shelf / "release-00002" / "release.json").write_text("{")  # hides no other
    run = ["list", "--home", str(home.folder), "--json"]
    rows = json.loads(CliRunner().invoke(app, [*run, "--from", str(shelf)]).stdout)["releases"]
    assert [(row["round"], row["cached"]) for row in rows] == [(6, False), (4, True)]
    rows = json.loads(CliRunner().invoke(app, [*run, "--cached"]).stdout)["releases"]
    assert [row["round"] for row in rows] == [4]


def test_verify_checks_what_is_here_offline(home: NodeHome, shelf: Path) -> None:
    run = ["verify", "--home", str(home.folder)]
    assert isinstance(CliRunner().invoke(app, run).exception, StateError)
    get(home, "--from", shelf)
    assert "round 6" in CliRunner().invoke(app, run).stdout
    assert facts(CliRunner().invoke(app, [*run, "6", "--json"]))["kind"] == "release"
    older = CliRunner().invoke(app, [*run, str(shelf / "release-00004")])
    assert isinstance(older.exception, StaleError)
    assert CliRunner().invoke(app, [*run, str(shelf / "release-00004"), "--older"]).exit_code == 0
    model = home.releases / "release-00006" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert isinstance(CliRunner().invoke(app, [*run, "6"]).exception, ReleaseError)
    damaged = get(home, 6).exception
    assert isinstance(damaged, ReleaseError)
    assert "remove" in damaged.remedy


def test_an_interrupted_release_goes_on_from_where_it_was(home: NodeHome, made: Path) -> None:
    store = ReleaseStore(home)
    source = Flaky(made, 3000)
    with pytest.raises(UnreachableError, match="goes on"):
        store.get(CutAfter(source, 9), None, give_up_s=0.0)
    (partial,) = home.fetching.rglob("*.part")
    assert partial.stat().st_size > 0
    assert not home.releases.exists()
    before = sum(count for _, _, count in source.bytes)
    rest = Flaky(made)
    got = store.get(rest, None)
    assert sum(count for _, _, count in rest.bytes) == got.fetched
    assert got.fetched + before == sum(file.size for file in rest.releases()[0].files)
    assert any(offset for _, offset, _ in rest.bytes)


class CutAfter:
    """A source that is gone after so many calls."""

    def __init__(self, source: Flaky, calls: int) -> None:
        self.source, self.calls = source, calls

    def releases(self) -> list[Announced]:
        return self.source.releases()

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        self.calls -= 1
        if self.calls < 0:
            raise UnreachableError("gone", "wait")
        yield from self.source.read(release, file, offset)


def test_a_slow_source_is_not_a_silent_one(home: NodeHome, made: Path) -> None:
    got = ReleaseStore(home).get(Flaky(made, 5000), None, give_up_s=0.0)
    assert got.release.statement.round == 6


def test_what_a_power_cut_has_spoilt_comes_again(home: NodeHome, made: Path) -> None:
    with pytest.raises(UnreachableError):
        ReleaseStore(home).get(CutAfter(Flaky(made, 3000), 9), None, give_up_s=0.0)
    (part,) = home.fetching.rglob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    assert ReleaseStore(home).get(Flaky(made), None).release.statement.round == 6


class Lying(Flaky):
    """Announces or sends something else than there is."""

    def __init__(self, folder: Path, **lies: Any) -> None:
        super().__init__(folder)
        self.lies = lies

    def releases(self) -> list[Announced]:
        found = []
        for release in super().releases():
            files = [
                dataclasses.replace(file, **self.lies.get(file.name, {})) for file in release.files
            ]
            told = {**self.lies.get("announced", {}), "files": tuple(files)}
            found.append(dataclasses.replace(release, **told))
        return found

    def read(self, release: Announced, file: AnnouncedFile, offset: int) -> Iterator[bytes]:
        yield from super().read(release, file, offset)
        if file.name == self.lies.get("more"):
            yield b"and more"


@pytest.mark.parametrize(
    ("lies", "what"),
    [
        ({"more": "model.safetensors"}, "more than"),
        ({"more": "release.json"}, "more than"),
        ({"model.safetensors": {"size": 10}}, "more than"),
        ({"model.safetensors": {"digest": "0" * 64}}, "another digest than is signed"),
        ({"model.safetensors": {"size": 10**12}}, "allowed are 16"),
        ({"release.json": {"size": 5 << 20}}, "many bytes"),
        ({"announced": {"round": 9}}, "announced as round 9"),
        ({"announced": {"federation": "other"}}, "announced as"),
    ],
)
def test_a_source_that_lies_is_refused_and_leaves_nothing(
    home: NodeHome, made: Path, lies: dict[str, Any], what: str
) -> None:
    with pytest.raises(FetchError, match=what) as told:
        ReleaseStore(home).get(Lying(made, **lies), None)
    assert told.value.exit_code == 63
    assert names(home.folder) in (["fetching"], [])


def test_the_model_is_not_fetched_before_its_signatures_hold(home: NodeHome, shelf: Path) -> None:
    write_release(shelf, 8, signing_key(78))  # of another aggregator
    source = Flaky(shelf)
    with pytest.raises(SignatureError):
        ReleaseStore(home).get(source, None)
    assert {name for name, _, _ in source.bytes} == {"release.json", "model.sig", "release.pub"}
    assert names(home.folder) == ["fetching"]


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "release.json"])
def test_a_tampered_release_is_refused_and_leaves_nothing(
    home: NodeHome, shelf: Path, name: str
) -> None:
    path = shelf / "release-00006" / name
    data = bytearray(path.read_bytes())
    data[-40] ^= 4
    path.write_bytes(data)
    result = get(home, 6, "--from", shelf / "release-00006")
    assert isinstance(result.exception, (FetchError, ReleaseError, SignatureError))
    assert names(home.folder) in (["fetching"], [])


def test_older_and_expired_releases_are_refused_unless_they_are_asked_for(
    home: NodeHome, shelf: Path
) -> None:
    facts(get(home, "--from", shelf, "--json"))
    source = Flaky(shelf)
    with pytest.raises(StaleError, match="older"):
        ReleaseStore(home).get(source, 4)
    assert "model.safetensors" not in {name for name, _, _ in source.bytes}
    assert facts(get(home, 4, "--older", "--from", shelf, "--json"))["round"] == 4
    assert json.loads(home.newest_file.read_text())["round"] == 6  # it is not remembered
    assert isinstance(get(home, 4).exception, StaleError)  # although it is here
    write_release(shelf, 7, KEY, days=0)
    assert "its time is over" in str(get(home, "--from", shelf).exception)


def test_another_model_of_the_same_round_is_two_histories(home: NodeHome, shelf: Path) -> None:
    facts(get(home, "--from", shelf, "--json"))
    kept = (home.releases / "release-00006" / "model.safetensors").read_bytes()
    shutil.rmtree(shelf / "release-00006")
    write_release(shelf, 6, KEY, seed=99)
    for options in ((), ("--older",)):
        assert isinstance(get(home, "--from", shelf, *options).exception, TwoHistoriesError)
    assert (home.releases / "release-00006" / "model.safetensors").read_bytes() == kept


def test_a_full_disk_is_told_before_and_while_it_fills(
    home: NodeHome, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        source = Flaky(made)
        with pytest.raises(FetchError, match="no room"):
            ReleaseStore(home).get(source, None)
        assert not source.bytes

    class Full(Flaky):
        def read(self, *args: Any) -> Iterator[bytes]:
            def fills() -> NoReturn:
                raise OSError(errno.ENOSPC, "No space left on device")

            for count, data in enumerate(super().read(*args)):
                yield data
                if args[1].name == "model.safetensors" and count == 0:
                    fills()

    with pytest.raises(FetchError, match="nothing was kept"):
        ReleaseStore(home).get(Full(made), None)
    assert names(home.folder) == ["fetching"]


def test_names_that_lead_elsewhere_and_strange_announcements_are_refused(made: Path) -> None:
    (release, *_) = FolderSource(made).releases()
    for name in ("../x", "a/b", ".hidden", "", "x" * 101, "a\x1b[2J"):
        for change in (
            {"name": name},
            {"federation": name},
            {"files": (AnnouncedFile(name, 1, "0" * 64),)},
        ):
            with pytest.raises(ReleaseError):
                dataclasses.replace(release, **change).require_fit()
        with pytest.raises(ReleaseError):
            Shelf(made).open("release-00006", name)
        with pytest.raises(ReleaseError):
            Shelf(made).open(name, "model.sig")
    for change in ({"files": ()}, {"files": release.files * 2}, {"expires": 1 << 60}):
        with pytest.raises(ReleaseError):
            dataclasses.replace(release, **change).require_fit()


def test_what_is_no_release_is_said_to_be_none(home: NodeHome, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no release" in str(get(home, "--from", tmp_path / "empty").exception)
    assert isinstance(get(home, "--from", tmp_path / "nowhere").exception, StateError)
    assert "--from" in str(get(home).exception)  # it has joined nowhere
    lost = get(NodeHome(tmp_path / "empty"), "--from", tmp_path)
    assert "--key" in str(lost.exception)

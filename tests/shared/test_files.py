"""Files and folders are written whole or not at all."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gobelin.shared import files
from gobelin.shared.errors import MachineError, StateError
from gobelin.shared.files import (
    PRIVATE,
    PUBLIC,
    bytes_in,
    find_json,
    folder_atomic,
    link_or_copy,
    numbered,
    read_json,
    remove_folder,
    sweep,
    write_atomic,
    write_json,
)
from gobelin.shared.locks import sole_owner
from tests.failing_disk import failing_disk
from tests.vanishing import vanishing


class Unplugged(BaseException):
    """Stands for a Ctrl-C or a full disk in the middle of a write."""


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_is_replaced_with_the_mode_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "key"
    write_atomic(file, b"one", PRIVATE)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"one", PRIVATE)
    write_atomic(file, b"two")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"two", PUBLIC)
    assert names(tmp_path) == {"deep", "deep/down", "deep/down/key"}


@pytest.mark.parametrize("step", ["os.fsync", "os.fchmod", "Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_atomic(file, b"old")

    def fail(*_: object) -> None:
        raise Unplugged

    owner, name = step.split(".")
    monkeypatch.setattr(getattr(files, owner), name, fail)
    with pytest.raises(Unplugged):
        write_atomic(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_a_file_that_need_not_be_flushed_is_still_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushed(fd: int) -> None:
        raise AssertionError("nothing is flushed")

    monkeypatch.setattr(files.os, "fsync", flushed)
    path = tmp_path / "status.json"
    write_json(path, {"state": "idle"}, flush=False)
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes", flush=False)  # type: ignore[arg-type]
    assert read_json(path) == {"state": "idle"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_linked_file_is_one_and_outlives_the_name_it_was_linked_by(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"owed")
    link_or_copy(first, second)
    assert second.samefile(first)
    first.unlink()
    assert second.read_bytes() == b"owed"


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"é": 1, "a": [1.5, None]})
    for bad in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(file, {"bad": bad})
    assert read_json(file) == {"é": 1, "a": [1.5, None]}
    assert names(tmp_path) == {"facts.json"}


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_json_file_is_a_state_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(data)
    with pytest.raises(StateError, match=r"facts\.json"):
        read_json(tmp_path / "facts.json")


def test_a_missing_json_file_is_a_state_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist"):
        read_json(tmp_path / "facts.json")


def test_a_json_file_that_need_not_be_there_is_none_also_where_it_goes_as_it_is_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "facts.json"
    assert find_json(file) is None
    write_json(file, {"a": 1})
    assert find_json(file) == {"a": 1}
    with vanishing(file):
        assert find_json(file) is None


def test_a_folder_appears_whole_with_its_sub_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "target"
    with folder_atomic(target) as tmp:
        (tmp / "sub" / "empty").mkdir(parents=True)
        (tmp / "sub" / "file").write_text("inside")
        (tmp / "top").write_text("above")
        assert not target.exists()
    assert names(tmp_path / "a") == {
        *("target", "target/top", "target/sub", "target/sub/file", "target/sub/empty")
    }
    assert (target / "sub" / "file").read_text() == "inside"


def test_a_folder_replaces_an_older_one_entirely(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with folder_atomic(tmp_path / "target") as tmp:
            (tmp / name).write_text(name)
    assert names(tmp_path) == {"target", "target/two"}


def test_a_writer_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with folder_atomic(target) as tmp:
        (tmp / "file").write_text("old")

    def write_half() -> None:
        with folder_atomic(target) as tmp:
            (tmp / "sub").mkdir()
            (tmp / "sub" / "file").write_text("new")
            raise Unplugged

    with pytest.raises(Unplugged):
        write_half()
    assert names(tmp_path) == {"target", "target/file"}
    assert (target / "file").read_text() == "old"


def test_a_writer_that_fails_on_a_new_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unplugged), folder_atomic(tmp_path / "target"):
        raise Unplugged
    assert names(tmp_path) == set()


def test_a_new_folder_replaces_nothing_that_came_meanwhile(tmp_path: Path) -> None:
    """Of two `init`s at once the second must not take the place of the first one's keys."""
    for name in ("home", "empty"):
        (tmp_path / name).mkdir()
    with folder_atomic(tmp_path / "empty", new=True) as tmp:
        (tmp / "file").touch()

    def found() -> None:
        with folder_atomic(tmp_path / "home", new=True):
            (tmp_path / "home" / "node.key").touch()

    with pytest.raises(StateError, match="is not empty"):
        found()
    assert names(tmp_path) == {"empty", "empty/file", "home", "home/node.key"}


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    with folder_atomic(Path()) as tmp:
        (tmp / "file").write_text("x")
    assert (home / "file").read_text() == "x"


class Killed(BaseException):
    """The process is gone."""


def test_a_folder_whose_removal_is_cut_short_is_gone_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "round-1"
    with folder_atomic(folder) as tmp:
        (tmp / "first").touch()
        (tmp / "second").touch()

    def cut_short(path: Path, **_: object) -> None:
        next(path.iterdir()).unlink()
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(files.shutil, "rmtree", cut_short)
        with pytest.raises(Killed):
            remove_folder(folder)
    assert not folder.exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def killed_at(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is gone at its n-th flush, rename or removal from now on, and cleans up none."""
    count = [left]

    def guarded(call: Callable[..., object]) -> Callable[..., object]:
        def guard(*given: object, **named: object) -> object:
            count[0] -= 1
            if count[0] <= 0:
                raise Killed
            return call(*given, **named)

        return guard

    monkeypatch.setattr(files.os, "fsync", guarded(files.os.fsync))
    monkeypatch.setattr(files.Path, "replace", guarded(files.Path.replace))
    monkeypatch.setattr(files.shutil, "rmtree", guarded(files.shutil.rmtree))


def test_a_folder_that_is_replaced_is_there_before_and_after_every_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build's state and a solo model are written anew again and again: a kill loses neither."""

    def write(name: str) -> None:
        with folder_atomic(tmp_path / "solo") as tmp:
            (tmp / name).touch()

    found, done = [], False
    for left in range(1, 99):
        write("old")
        with monkeypatch.context() as dying:
            killed_at(left, dying)
            with suppress(Killed):
                write("new")
                done = True
        sweep(tmp_path)
        found.append(names(tmp_path))
        if done:
            break
    assert done
    assert found.count({"solo", "solo/old"}) + found.count({"solo", "solo/new"}) == len(found)
    assert {"solo", "solo/old"} in found
    assert found[-1] == {"solo", "solo/new"}


def test_where_names_cannot_be_exchanged_a_folder_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for name in ("old", "new"):
        with folder_atomic(tmp_path / "solo") as tmp:
            (tmp / name).touch()
    assert names(tmp_path) == {"solo", "solo/new"}


@pytest.mark.parametrize("made", ["mkstemp", "mkdtemp"])
def test_what_is_swept_before_its_writer_has_locked_it_is_begun_anew(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, swept = getattr(files.tempfile, made), list[str]()

    def make_and_sweep(**named: object) -> object:
        given = make(**named)
        if not swept:
            swept.append(made)
            sweep(tmp_path)
        return given

    monkeypatch.setattr(files.tempfile, made, make_and_sweep)
    if made == "mkstemp":
        write_atomic(tmp_path / "node.secret", b"ours", PRIVATE)
        assert (tmp_path / "node.secret").stat().st_mode & 0o777 == PRIVATE
    else:
        with folder_atomic(tmp_path / "round-1") as tmp:
            (tmp / "model").touch()
    assert len(names(tmp_path)) == (1 if made == "mkstemp" else 2)
    assert swept == [made]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_being_removed_is_swept_by_nobody_else(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with folder_atomic(tmp_path / "release-1") as tmp:
            (tmp / "model").touch()

    rmtree = files.shutil.rmtree

    def sweep_first(path: Path, **named: object) -> None:
        monkeypatch.undo()
        sweep(tmp_path)
        rmtree(path, **named)  # type: ignore[arg-type]

    write()
    monkeypatch.setattr(files.shutil, "rmtree", sweep_first)
    write() if replaced else remove_folder(tmp_path / "release-1")
    assert names(tmp_path) == ({"release-1", "release-1/model"} if replaced else set())


WRITERS = """
import os, sys
from pathlib import Path
from gobelin.shared.files import file_atomic, folder_atomic
home = Path(sys.argv[1])
with file_atomic(home / "pins.json"), folder_atomic(home / "spool" / "1") as tmp:
    (tmp / "model").touch()
    print("writing", flush=True)
    sys.stdin.read()
    os._exit(9)
"""


def test_what_killed_writers_left_is_swept_and_nothing_of_one_that_lives(tmp_path: Path) -> None:
    write_json(tmp_path / "spool" / "status.json", {})
    (tmp_path / ".hidden").touch()
    command = [sys.executable, "-c", WRITERS, str(tmp_path)]
    with sole_owner(tmp_path):
        kept = set(tmp_path.rglob("*"))
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        sweep(tmp_path)
        assert len(set(tmp_path.rglob("*")) - kept) == 3
        writer.communicate()
        assert writer.returncode == 9
        assert len(set(tmp_path.rglob("*")) - kept) == 3
        sweep(tmp_path)
        sweep(tmp_path / "nowhere")
        assert set(tmp_path.rglob("*")) == kept


def test_what_goes_while_a_folder_is_gone_through_is_passed_over(tmp_path: Path) -> None:
    for name in ("round-1", "round-2", ".round-3.abcd1234"):
        (tmp_path / "spool" / name).mkdir(parents=True)
        (tmp_path / "spool" / name / "model").write_bytes(b"12345")
    with vanishing(tmp_path / "spool" / "round-1"):
        assert bytes_in(tmp_path) == 10
    with vanishing(tmp_path / "spool" / "round-2"):
        sweep(tmp_path)
    assert names(tmp_path) == {"spool"}


def test_numbers_are_those_in_names_and_of_nothing_else(tmp_path: Path) -> None:
    assert numbered(tmp_path / "none", "round-") == []
    for name in ("round-00010", "round-00002", "round-100000", "round-3b", "around-1", "4.note"):
        (tmp_path / name).mkdir()
    for name in (".round-00007.abcdefgh", "00005.note", "other-00006-ab.note", "00012.note.x"):
        (tmp_path / name).touch()
    assert numbered(tmp_path, "round-") == [2, 10, 100000]
    assert numbered(tmp_path, after=".note") == [4, 5]


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EMFILE])
def test_json_on_a_disk_that_fails_for_now_is_not_taken_for_damaged(
    tmp_path: Path, error: int
) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"a": 1})
    for read in (read_json, find_json):
        with failing_disk(file, error), pytest.raises(MachineError, match=r"facts\.json cannot be"):
            read(file)
    assert read_json(file) == {"a": 1}


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP])
def test_json_that_may_not_be_read_wants_a_person(tmp_path: Path, error: int) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"a": 1})
    for read in (read_json, find_json):
        with failing_disk(file, error), pytest.raises(StateError, match="cannot be read"):
            read(file)

"""Files are written whole or not at all, and a folder has one owner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gobelin.shared import files
from gobelin.shared.errors import StateError
from gobelin.shared.files import (
    PRIVATE,
    PUBLIC,
    folder_atomic,
    is_lock,
    is_owned,
    link_or_copy,
    numbered,
    read_json,
    remove_folder,
    sole_owner,
    sweep,
    write_atomic,
    write_json,
)

HOLD = """
import sys
from pathlib import Path
from gobelin.shared.files import sole_owner
with sole_owner(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


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


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    with folder_atomic(Path()) as tmp:
        (tmp / "file").write_text("x")
    assert (home / "file").read_text() == "x"


@contextmanager
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert not is_owned(home)
    with holder(home) as process:
        assert is_owned(home)
        with pytest.raises(StateError, match="already running"), sole_owner(home):
            pytest.fail("two owners")
        process.kill()  # the lock of a killed process is free
        process.wait()
        assert not is_owned(home)
        with sole_owner(home):
            assert is_owned(home)
    assert not is_owned(home)


def test_a_holder_is_waited_for_as_long_as_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is ours: each pause is a second, and the third lets go of the lock."""
    now, first = [0.0], sole_owner(tmp_path)
    first.__enter__()

    def sleep(_: float) -> None:
        now[0] += 1
        if now[0] == 3:
            first.__exit__(None, None, None)

    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files.time, "sleep", sleep)
    with pytest.raises(StateError), sole_owner(tmp_path, wait_s=2):
        pytest.fail("two owners")
    with sole_owner(tmp_path, wait_s=2):
        assert now[0] == 3


def test_looking_at_the_lock_makes_nothing_and_takes_nothing(tmp_path: Path) -> None:
    assert not is_owned(tmp_path / "nowhere")
    assert names(tmp_path) == set()
    with sole_owner(tmp_path / "home"):
        pass
    assert not is_owned(tmp_path / "home")
    with sole_owner(tmp_path / "home"):
        assert is_owned(tmp_path / "home")


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_whose_removal_is_cut_short_is_gone_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    folder = tmp_path / "round-1"
    with folder_atomic(folder) as tmp:
        (tmp / "first").touch()
        (tmp / "second").touch()

    def cut_short(path: Path, **_: object) -> None:
        next(path.iterdir()).unlink()
        raise Killed

    def replace() -> None:
        with folder_atomic(folder) as tmp:
            (tmp / "third").touch()

    with monkeypatch.context() as dying:
        dying.setattr(files.shutil, "rmtree", cut_short)
        with pytest.raises(Killed):
            replace() if replaced else remove_folder(folder)
    assert not folder.exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


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


ADDING = """
import sys
from pathlib import Path
from gobelin.shared.files import change, read_json, write_json
file = Path(sys.argv[1])
for _ in range(50):
    with change(file):
        write_json(file, {"count": read_json(file)["count"] + 1}, flush=False)
"""


def test_no_change_of_a_file_is_lost_to_another_process(tmp_path: Path) -> None:
    file = tmp_path / "pins.json"
    write_json(file, {"count": 0})
    command = [sys.executable, "-c", ADDING, str(file)]
    writers = [subprocess.Popen(command) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert read_json(file) == {"count": 150}
    assert [path.name for path in tmp_path.iterdir() if not is_lock(path)] == ["pins.json"]


def test_what_is_swept_before_its_writer_holds_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = files._begin, []

    def too_early(path: Path, make: Callable[[None, str, Path], str]) -> tuple[int, Path]:
        def made(suffix: None, prefix: str, folder: Path) -> str:
            begun.append(make(suffix, prefix, folder))
            if len(begun) % 2:
                sweep(folder)
            return begun[-1]

        return begin(path, made)

    monkeypatch.setattr(files, "_begin", too_early)
    write_json(tmp_path / "pins.json", {"a": 1})
    with folder_atomic(tmp_path / "round-1") as tmp:
        (tmp / "model").touch()
    assert len(begun) == 4
    assert names(tmp_path) == {"pins.json", "round-1", "round-1/model"}


def test_numbers_are_those_in_names_and_of_nothing_else(tmp_path: Path) -> None:
    assert numbered(tmp_path / "none", "round-") == []
    for name in ("round-00010", "round-00002", "round-100000", "round-3b", "around-1", "4.note"):
        (tmp_path / name).mkdir()
    for name in (".round-00007.abcdefgh", "00005.note", "other-00006-ab.note", "00012.note.x"):
        (tmp_path / name).touch()
    assert numbered(tmp_path, "round-") == [2, 10, 100000]
    assert numbered(tmp_path, after=".note") == [4, 5]

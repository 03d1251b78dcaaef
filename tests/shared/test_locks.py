"""Turns among processes: a folder has one owner, and no change of a file is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gobelin.shared import locks
from gobelin.shared.errors import InUseError
from gobelin.shared.files import read_json, remove_folder, write_json
from gobelin.shared.locks import is_lock, is_owned, sole_owner

HOLD = """
import sys
from pathlib import Path
from gobelin.shared.locks import sole_owner
with sole_owner(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


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
        with pytest.raises(InUseError, match="already running"), sole_owner(home):
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

    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(locks.time, "sleep", sleep)
    with pytest.raises(InUseError), sole_owner(tmp_path, wait_s=2):
        pytest.fail("two owners")
    with sole_owner(tmp_path, wait_s=2):
        assert now[0] == 3


def test_looking_at_the_lock_makes_nothing_and_takes_nothing(tmp_path: Path) -> None:
    assert not is_owned(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    with sole_owner(tmp_path / "home"):
        pass
    assert not is_owned(tmp_path / "home")
    with sole_owner(tmp_path / "home"):
        assert is_owned(tmp_path / "home")


def test_who_looks_at_the_lock_is_seen_by_nobody_who_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, seen = locks.fcntl.flock, list[bool]()

    def looked_at_meanwhile(fd: int, kind: int) -> None:
        flock(fd, kind)
        if not seen:
            seen.append(True)
            seen[0] = is_owned(tmp_path)

    with sole_owner(tmp_path):
        pass
    monkeypatch.setattr(locks.fcntl, "flock", looked_at_meanwhile)
    assert not is_owned(tmp_path)
    assert seen == [False]


def test_who_looks_at_the_lock_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sole_owner(tmp_path):
        pass
    looking = (tmp_path / ".lock").open()
    locks.fcntl.flock(looking, locks.fcntl.LOCK_SH)
    monkeypatch.setattr(locks.time, "sleep", lambda _: looking.close())
    with sole_owner(tmp_path):
        assert is_owned(tmp_path)


def test_a_folder_that_its_owner_removes_is_made_anew_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a build that ends while another waits for it: what it locked is in no folder."""
    home = tmp_path / "model.unfinished"
    first = sole_owner(home)
    first.__enter__()

    def sleep(_: float) -> None:
        remove_folder(home)
        first.__exit__(None, None, None)

    monkeypatch.setattr(locks.time, "sleep", sleep)
    with sole_owner(home, wait_s=1):
        assert is_owned(home)


ADDING = """
import sys
from pathlib import Path
from gobelin.shared.files import read_json, write_json
from gobelin.shared.locks import change
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

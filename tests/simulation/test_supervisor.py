"""The supervisor's folder for Ray's sockets is ours alone, and gone afterwards."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gobelin.shared.errors import StateError
from gobelin.simulation.supervisor import made_anew, scratch_of


def test_what_a_killed_study_has_left_is_cleared_and_nobody_else_looks_in(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "ray").mkdir(parents=True, mode=0o777)
    with made_anew(folder) as made:
        assert list(made.iterdir()) == []
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        (made / "socket").touch()
    assert not folder.exists()


def test_a_folder_that_cannot_be_cleared_is_named(tmp_path: Path) -> None:
    (tmp_path / "scratch").touch()
    with (
        pytest.raises(StateError, match="scratch cannot be made anew"),
        made_anew(tmp_path / "scratch"),
    ):
        pass


def test_a_study_has_one_short_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = scratch_of(tmp_path / "study"), scratch_of(tmp_path / "other")
    assert one == scratch_of(tmp_path / "link" / "study") != other
    sockets = one / "ray" / "session_2026-01-01_00-00-00_000000_1234567" / "sockets"
    assert len(str(sockets / "plasma_store.12345")) < 104  # bytes of a socket's path on macOS

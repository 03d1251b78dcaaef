"""Formats: older homes go on, newer ones are refused by name, and a kill between loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gobelin.shared import formats
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.errors import FormatError, StateError
from gobelin.shared.files import MANIFEST
from gobelin.shared.formats import (
    AGGREGATOR,
    FILE,
    KEPT,
    NODE,
    Format,
    Migration,
    behind,
    formats_of,
    require_readable,
    upgrade,
)
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from tests.simulator.nodes import SCHEMA

NOTES = (Format("notes", 3, 1, FILE),)
STEPS = {
    ("notes", 1): Migration("notes/*.txt", lambda data: data.replace(b"one", b"two")),
    ("notes", 2): Migration("notes/*.txt", lambda data: data + b"!"),
}


def old_home(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / "notes").mkdir(parents=True, exist_ok=True)
        (folder / "notes" / f"{name}.txt").write_bytes(f"{name} one".encode())
    return folder


def texts(home: Path) -> list[str]:
    return [path.read_text() for path in sorted((home / "notes").iterdir())]


def test_a_home_without_versions_is_of_the_first_and_is_brought_up(tmp_path: Path) -> None:
    assert set(formats_of(tmp_path, AGGREGATOR).values()) == {1}
    assert behind(tmp_path, AGGREGATOR) == {"federation.toml": (1, 2), "ledger": (1, 2)}
    assert upgrade(tmp_path, AGGREGATOR) == {"federation.toml": [], "ledger": []}
    assert behind(tmp_path, AGGREGATOR) == {}
    assert upgrade(tmp_path, AGGREGATOR) == {}
    said = json.loads((tmp_path / FILE).read_bytes())["formats"]
    assert said == {kind.name: kind.current for kind in AGGREGATOR}


def test_every_step_is_taken_and_what_was_stays_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MIGRATIONS", STEPS)
    home = old_home(tmp_path)
    assert upgrade(home, NOTES) == {"notes": ["notes/a.txt", "notes/b.txt"]}
    assert texts(home) == ["a two!", "b two!"]
    kept = sorted(path.read_text() for path in (home / KEPT / "notes-1").rglob("*.txt"))
    assert kept == ["a one", "b one"]


@pytest.mark.parametrize("killed_at", range(5))
def test_a_kill_at_any_write_of_an_upgrade_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    monkeypatch.setattr(formats, "MIGRATIONS", STEPS)
    home, writes = old_home(tmp_path), 0
    atomic, told = formats.file_atomic, formats.write_json

    def count() -> None:
        nonlocal writes
        writes += 1
        if writes > killed_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(formats, "file_atomic", lambda *a, **k: (count(), atomic(*a, **k))[1])
        patch.setattr(formats, "write_json", lambda *a, **k: (count(), told(*a, **k))[1])
        if killed_at < 5:
            with pytest.raises(KeyboardInterrupt):
                upgrade(home, NOTES)
    upgrade(home, NOTES)
    assert texts(home) == ["a two!", "b two!"]
    assert formats_of(home, NOTES) == {"notes": 3}


@pytest.mark.parametrize("kinds", [AGGREGATOR, NODE], ids=["aggregator", "node"])
def test_a_newer_or_unknown_format_is_refused_naming_both_versions(
    tmp_path: Path, kinds: tuple[Format, ...]
) -> None:
    for kind in (kinds[0], Format("holograms", 0, 0, FILE)):
        newer = {"formats": {kind.name: kind.current + 1}}
        (tmp_path / FILE).write_text(json.dumps(newer))
        with pytest.raises(FormatError) as told:
            require_readable(tmp_path, kinds)
        assert f"{kind.name} is of version {kind.current + 1}" in told.value.what
        assert f"knows {kind.current}" in told.value.what
        assert "pip install -U gobelin" in told.value.remedy
        assert told.value.exit_code == 76
        with pytest.raises(FormatError):
            upgrade(tmp_path, kinds)
        assert json.loads((tmp_path / FILE).read_text()) == newer


def test_a_format_that_is_too_old_says_which_are_read(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"notes is of version 1, gobelin .* reads 2 to 3"):
        require_readable(tmp_path, [Format("notes", 3, 2, FILE)])


def test_a_damaged_list_of_versions_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"formats": {"ledger": "new"}}')
    with pytest.raises(StateError, match="names no versions"):
        formats_of(tmp_path, AGGREGATOR)


def test_a_checkpoint_of_a_newer_gobelin_is_named_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    write_checkpoint(folder, load_recipe("toy"), ParameterVector.zeros(SCHEMA), {})
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("checkpoint.v1", "checkpoint.v2"))
    with pytest.raises(FormatError, match="checkpoint is of version 2"):
        read_checkpoint(folder)

"""The newest release that was taken stays the newest, whoever else takes one at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.protocols.ledger import ReleaseStatement
from gobelin.shared.files import read_json
from gobelin.shared.release import Watch
from tests.beside import Beside


def statement(number: int) -> ReleaseStatement:
    return ReleaseStatement("fed", number, f"{number:064x}", 1_000, 2_000, "key")


def test_an_older_release_that_is_taken_beside_a_newer_one_is_not_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, check = Watch(tmp_path / "newest.json", lambda: 1_500), Watch.check
    other = Beside(lambda: Watch(tmp_path / "newest.json", lambda: 1_500).take(statement(20)))

    def checked(self: Watch, of: ReleaseStatement) -> None:
        check(self, of)
        if of.round == 10:
            other.step()

    monkeypatch.setattr(Watch, "check", checked)
    watch.take(statement(10))
    other.end()
    assert read_json(tmp_path / "newest.json")["round"] == 20

"""The archive: a round's counted contributions as they came, kept so that it can be replayed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gobelin.server.journal import Journal
from gobelin.server.round_events import Asked
from gobelin.shared.files import folder_atomic, numbered

if TYPE_CHECKING:  # who only looks at a home needs no tensors
    from gobelin.server.courier import Reply


class Archive:
    """A folder a round, with the replies that the journal held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, number: int, journal: Journal, asked: Iterable[Asked]) -> None:
        """Keep the replies that a round is about to be sealed with, whole or not at all.

        Before the seal: afterwards the journal is cleared, and a kill may come between.
        """
        with folder_atomic(self._round(number)) as tmp:
            for one in asked:
                _link(journal.path(one), tmp / journal.path(one).name)

    def folder(self, number: int) -> Path:
        """Where a round's replies lie."""
        return self._round(number)

    def rounds(self) -> list[int]:
        """Numbers of the rounds whose replies are here, ascending."""
        return numbered(self._folder, "round-")

    def has(self, number: int) -> bool:
        """Whether a round's replies are here."""
        return self._round(number).is_dir()

    def reply(self, number: int, asked: Asked) -> Reply | None:
        """A reply that the round counted, or None when it is missing or unreadable."""
        return Journal(self._round(number)).reply(asked)

    def _round(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}"


def _link(source: Path, target: Path) -> None:
    """The same bytes twice and once on the disk: a reply's file is replaced, never changed."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)

"""What a sealed round's exchange leaves on disk: its session, and masked deltas as they came.

Up to the survivors a session is given up by a kill, and the next one starts anew; its number alone
has to be remembered. From then on nodes reveal shares, once: the session is gone on with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gobelin.shared.errors import StateError
from gobelin.shared.files import file_atomic, find_json, remove_folder, write_json
from gobelin.shared.sealing.ring import Words

PIECE = 1 << 20  # words read at once


@dataclass(frozen=True)
class Fixed:
    """A session whose survivors are fixed."""

    session: str  # canonical bytes
    adverts: Mapping[str, str]  # answers to KEYS, by node
    masked: Sequence[str]  # nodes that the survivors have masked against
    survivors: Sequence[str]
    signed: Mapping[str, str] = field(default_factory=dict)  # answers to AGREE that are shown


class SealedFiles:
    """One folder beside the round's journal; who clears the journal clears it, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number_file = folder / "number.json"
        self._fixed_file = folder / "session.json"

    def next_number(self) -> int:
        """The number of a new session, above every earlier one.

        By the clock where the last one is not known: nodes take part in later sessions only.
        """
        last = find_json(self._number_file) or {"number": 0}
        number = max(int(last["number"]) + 1, int(time.time()))
        write_json(self._number_file, {"number": number})
        masked = self._folder / "masked"
        if masked.exists():
            remove_folder(masked)
        return number

    def fix(self, fixed: Fixed) -> None:
        """Write down who is in the sum, before anyone is asked to reveal a share."""
        write_json(self._fixed_file, vars(fixed))

    def fixed(self) -> Fixed | None:
        """The session to go on with, or None."""
        known = find_json(self._fixed_file)
        return None if known is None else Fixed(**known)

    def keep(self, node: str, segments: Sequence[bytes]) -> None:
        """Write a node's masked delta, flushed."""
        with file_atomic(self._masked(node)) as tmp, tmp.open("wb") as file:
            for segment in segments:
                file.write(segment)

    def total(self, nodes: Sequence[str], size: int) -> Words:
        """The sum (P,) of masked deltas modulo 2³²; raises StateError where one is damaged."""
        total = np.zeros(size, np.uint32)
        buffer = np.empty(min(PIECE, size), "<u4")
        for node in nodes:
            path = self._masked(node)
            if not path.exists() or path.stat().st_size != 4 * size:
                raise StateError(f"{path} is missing or damaged", "restore it from a backup")
            with path.open("rb") as file:
                for start in range(0, size, PIECE):
                    piece = buffer[: min(PIECE, size - start)]
                    os.readv(file.fileno(), [piece.data])
                    total[start : start + len(piece)] += piece
        return total

    def _masked(self, node: str) -> Path:
        return self._folder / "masked" / f"{node}.u32"

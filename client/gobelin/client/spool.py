"""The spool: finished contributions and the inner optimizer's state behind them, on disk.

A contribution is here, whole, before it is announced. It stays until two later rounds have been
trained, so the aggregator can ask for it again after any crash, on either side.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.protocols.messages import Contribution, MalformedMessageError
from gobelin.shared.errors import StateError, VectorError
from gobelin.shared.files import folder_atomic, write_atomic
from gobelin.shared.vector import ParameterSchema, ParameterVector

KEEP = 2  # rounds
HEADER = "contribution.json"
DELTA = "delta.safetensors"
INNER = "inner.safetensors"


@dataclass(frozen=True)
class Spooled:
    """A finished contribution."""

    contribution: Contribution
    delta: ParameterVector


class Spool:
    """One folder a round under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(
        self, contribution: Contribution, delta: ParameterVector, inner: Mapping[str, Tensor]
    ) -> None:
        """Keep a contribution and the inner state after it; older ones are dropped."""
        with folder_atomic(self._round(contribution.round)) as tmp:
            write_atomic(tmp / HEADER, contribution.to_bytes())
            save_file({k: t.clone() for k, t in delta.tensors().items()}, tmp / DELTA)
            save_file(dict(inner), tmp / INNER)
        # Later rounds are of a course that the federation has left, going back to an earlier base.
        abandoned = [number for number in self.rounds() if number > contribution.round]
        kept = [number for number in self.rounds() if number <= contribution.round]
        for number in abandoned + kept[:-KEEP]:
            shutil.rmtree(self._round(number))

    def find(self, plan_digest: str, round_number: int, schema: ParameterSchema) -> Spooled | None:
        """The finished contribution for a plan, or None."""
        folder = self._round(round_number)
        if not (folder / HEADER).exists():
            return None
        try:
            contribution = Contribution.from_bytes((folder / HEADER).read_bytes())
            if contribution.plan_digest != plan_digest:
                return None
            delta = ParameterVector.of_tensors(schema, load_file(folder / DELTA))
        except (MalformedMessageError, VectorError, SafetensorError, OSError):
            raise _damaged(folder) from None
        if delta.digest != contribution.delta_digest:
            raise _damaged(folder)
        return Spooled(contribution, delta)

    def inner_before(self, round_number: int) -> tuple[int, dict[str, Tensor]]:
        """Number and inner state of the last round before `round_number`; 0 and {} if none."""
        earlier = [number for number in self.rounds() if number < round_number]
        if not earlier:
            return 0, {}
        try:
            return earlier[-1], load_file(self._round(earlier[-1]) / INNER)
        except (SafetensorError, OSError):
            raise _damaged(self._round(earlier[-1])) from None

    def rounds(self) -> list[int]:
        """Numbers of the rounds in the spool, ascending."""
        folders = self._folder.glob("round-[0-9]*") if self._folder.exists() else []
        return sorted(int(folder.name.removeprefix("round-")) for folder in folders)

    def _round(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}"


def _damaged(folder: Path) -> StateError:
    return StateError(f"{folder} is damaged", "remove it; the round is trained again")

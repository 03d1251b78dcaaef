"""What the spool says of a contribution without its tensors: its header, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gobelin.protocols.messages import Contribution, MalformedMessageError, Receipt
from gobelin.shared.errors import StateError
from gobelin.shared.files import numbered

HEADER = "contribution.json"
MOMENTS = "moments.bin"  # only where a round tests across nodes; sent if the contribution says so
RECEIPT = "receipt.json"  # only once the aggregator has sent it


@dataclass(frozen=True)
class Entry:
    """What is known of a contribution in the spool."""

    contribution: Contribution
    receipt: Receipt | None

    @property
    def state(self) -> Literal["spooled", "receipted"]:
        """Whether the aggregator has said what became of it."""
        return "receipted" if self.receipt else "spooled"

    @property
    def counted(self) -> bool | None:
        """Whether it counted; None while nothing is known."""
        if self.receipt is None:
            return None
        same = self.receipt.delta_digest == self.contribution.delta_digest
        return self.receipt.counted and same

    @property
    def fate(self) -> str:
        """What became of it, for an operator."""
        what = f"the contribution to round {self.contribution.round}"
        if self.receipt is None:
            return f"{what} has no receipt yet"
        if self.counted:
            return f"{what} counted with weight {self.receipt.weight:.3g}"
        return f"{what} was not counted: {self.receipt.reason or 'another one was'}"


def rounds_in(spool: Path) -> list[int]:
    """Numbers of the rounds in a spool, ascending."""
    return numbered(spool, "round-")


def folder_of(spool: Path, number: int) -> Path:
    """Where a round lies."""
    return spool / f"round-{number:05d}"


def read_entry(spool: Path, number: int) -> Entry:
    """What is known of a round's contribution; raises StateError on damage."""
    folder = folder_of(spool, number)
    try:
        contribution = Contribution.from_bytes((folder / HEADER).read_bytes())
        if not (folder / RECEIPT).exists():
            return Entry(contribution, None)
        return Entry(contribution, Receipt.from_bytes((folder / RECEIPT).read_bytes()))
    except (MalformedMessageError, OSError):
        raise damaged(folder) from None


def entries_in(spool: Path) -> list[Entry]:
    """What is known of all rounds in a spool, ascending, as the node that fills it may be running.

    What it drops meanwhile is left out. Raises StateError on damage.
    """
    found = []
    for number in rounds_in(spool):
        try:
            found.append(read_entry(spool, number))
        except StateError:
            if folder_of(spool, number).exists():
                raise
    return found


def damaged(folder: Path) -> StateError:
    """A round in the spool that is not as it was written."""
    return StateError(f"{folder} is damaged", "remove it; the round is trained again")

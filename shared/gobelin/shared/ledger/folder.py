"""A ledger in a folder: a file a round, a note a head, and the rosters they name.

    rounds/00001.json   the record, its rows, and the aggregator's signature over the record
    heads/00002.note    the head of the first two leaves (rounds 0 and 1), with all signatures
    rosters/DIGEST.json

Every file is written whole, and is a function of sealed rounds but for cosignatures.
"""

from __future__ import annotations

import json
from pathlib import Path

from gobelin.protocols.ledger import ContributionRecord, RoundRecord
from gobelin.protocols.messages import MalformedMessageError
from gobelin.shared.errors import LedgerError
from gobelin.shared.files import json_bytes, write_atomic
from gobelin.shared.ledger.history import History, RosterSnapshot, Signatory, SignedEntry
from gobelin.shared.ledger.merkle import REMEDY
from gobelin.shared.ledger.note import SignedHead
from gobelin.shared.ledger.record import Entry


class LedgerFolder:
    """Reads and writes the files of one ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rounds = folder / "rounds"
        self._heads = folder / "heads"
        self._rosters = folder / "rosters"

    # ------------------------------------------------------------ entries

    def numbers(self) -> list[int]:
        """Numbers of the rounds there are, ascending."""
        return sorted(int(path.stem) for path in self._rounds.glob("[0-9]*.json"))

    def put_entry(self, signed: SignedEntry) -> None:
        """Write a round."""
        write_atomic(self._entry(signed.entry.record.round), entry_bytes(signed))

    def entry(self, number: int) -> SignedEntry | None:
        """A round as it lies there, or None; raises LedgerError when the file is none."""
        path = self._entry(number)
        if not path.exists():
            return None
        try:
            return parse_entry(path.read_bytes())
        except (ValueError, KeyError, TypeError, OSError, RecursionError, MalformedMessageError):
            raise LedgerError(f"{path} is no round of a ledger", REMEDY) from None

    def _entry(self, number: int) -> Path:
        return self._rounds / f"{number:05d}.json"

    # ------------------------------------------------------------ heads

    def sizes(self) -> list[int]:
        """Sizes of the heads there are, ascending."""
        return sorted(int(path.stem) for path in self._heads.glob("[0-9]*.note"))

    def put_head(self, signed: SignedHead) -> None:
        """Write a head."""
        write_atomic(self._heads / f"{signed.head.size:05d}.note", signed.text.encode())

    def head(self, size: int) -> SignedHead | None:
        """A head as it lies there, or None; raises LedgerError when the file is none."""
        path = self._heads / f"{size:05d}.note"
        return SignedHead.parse(path.read_bytes()) if path.exists() else None

    # ------------------------------------------------------------ rosters

    def put_roster(self, roster: RosterSnapshot) -> str:
        """Keep a roster; returns its digest."""
        path = self._rosters / f"{roster.digest}.json"
        if not path.exists():
            write_atomic(path, json_bytes(roster.facts()))
        return roster.digest

    def rosters(self) -> dict[str, RosterSnapshot]:
        """The rosters there are, by their files' names; raises LedgerError on damage."""
        return {path.stem: _parse_roster(path) for path in sorted(self._rosters.glob("*.json"))}

    # ------------------------------------------------------------ all of it

    def read(self) -> History:
        """Everything; raises LedgerError when there is nothing, or a file is none."""
        numbers = self.numbers()
        if numbers != list(range(len(numbers))) or not numbers:
            missing = next((i for i, n in enumerate(numbers) if i != n), len(numbers))
            raise LedgerError(f"{self.folder} has no round {missing} of a ledger", REMEDY)
        entries = [found for number in numbers if (found := self.entry(number)) is not None]
        heads = {size: head for size in self.sizes() if (head := self.head(size)) is not None}
        return History(entries, heads, self.rosters())


def entry_bytes(signed: SignedEntry) -> bytes:
    """A round's file."""
    entry = signed.entry
    return json_bytes(
        {
            "record": entry.record.plain(),
            "contributions": [row.plain() for row in entry.rows],
            "signature": signed.signature,
        }
    )


def parse_entry(data: bytes) -> SignedEntry:
    """What `entry_bytes` wrote; raises ValueError, KeyError or TypeError on any other bytes."""
    values = json.loads(data)
    record = RoundRecord.of_plain(values["record"])
    rows = tuple(map(ContributionRecord.of_plain, values["contributions"]))
    signed = SignedEntry(Entry(record, rows), str(values["signature"]))
    if entry_bytes(signed) != data:
        raise ValueError("not the bytes that were written")
    return signed


def _parse_roster(path: Path) -> RosterSnapshot:
    try:
        data = path.read_bytes()
        roster = RosterSnapshot(tuple(Signatory(**row) for row in json.loads(data)["nodes"]))
        if roster.digest != path.stem or json_bytes(roster.facts()) != data:
            raise ValueError("another roster")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise LedgerError(f"{path} is not the roster it is named for", REMEDY) from None
    return roster

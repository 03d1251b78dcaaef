"""A ledger in a folder: a file a round, a note a head, and the rosters they name.

    rounds/00001.json   the record, its rows, and the aggregator's signature over the record
    heads/00002.note    the head of the first two leaves (rounds 0 and 1), with all signatures

Every file is written whole, and is a function of sealed rounds but for cosignatures. Beside the
folder lie the roster logs whose heads the records name:

    ../roster/log.jsonl             the one that goes on
    ../roster/before-00001.jsonl    that of the first aggregator, where another has taken over
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gobelin.protocols.ledger import ContributionRecord, RoundRecord
from gobelin.protocols.messages import MalformedMessageError
from gobelin.shared.errors import LedgerError
from gobelin.shared.files import json_bytes, numbered, write_atomic
from gobelin.shared.ledger.history import History, SignedEntry
from gobelin.shared.ledger.merkle import REMEDY
from gobelin.shared.ledger.note import SignedHead
from gobelin.shared.ledger.record import Entry
from gobelin.shared.roster_log import Signed, line_of, lines_of

LOG = "log.jsonl"
BEFORE = "before-{:05d}.jsonl"


class LedgerFolder:
    """Reads and writes the files of one ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rounds = folder / "rounds"
        self._heads = folder / "heads"
        self._rosters = folder.parent / "roster"

    # ------------------------------------------------------------ entries

    def numbers(self) -> list[int]:
        """Numbers of the rounds there are, ascending."""
        return numbered(self._rounds, "", ".json")

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
        return entry_file(self.folder, number)

    # ------------------------------------------------------------ heads

    def sizes(self) -> list[int]:
        """Sizes of the heads there are, ascending."""
        return numbered(self._heads, "", ".note")

    def put_head(self, signed: SignedHead) -> None:
        """Write a head."""
        write_atomic(self._heads / f"{signed.head.size:05d}.note", signed.text.encode())

    def head(self, size: int) -> SignedHead | None:
        """A head as it lies there, or None; raises LedgerError when the file is none."""
        path = self._heads / f"{size:05d}.note"
        return SignedHead.parse(path.read_bytes()) if path.exists() else None

    # ------------------------------------------------------------ rosters

    def put_rosters(self, logs: Sequence[Sequence[Signed]]) -> None:
        """Write roster logs, the oldest first; the last is the one that goes on."""
        for number, records in enumerate(logs, 1):
            name = BEFORE.format(number) if number < len(logs) else LOG
            write_atomic(self._rosters / name, b"".join(map(line_of, records)))

    def rosters(self) -> list[list[Signed]]:
        """The roster logs there are, the oldest first; raises RosterError on damage."""
        files = sorted(self._rosters.glob("before-*.jsonl"))
        files += [file] if (file := self._rosters / LOG).exists() else []
        return [list(lines_of(file.read_bytes(), str(file))) for file in files]

    # ------------------------------------------------------------ all of it

    def read(self) -> History:
        """Everything; raises LedgerError when there is nothing, or a file is none."""
        sizes = self.sizes()  # first: a round is written before its head
        numbers = self.numbers()
        if numbers != list(range(len(numbers))) or not numbers:
            missing = next((i for i, n in enumerate(numbers) if i != n), len(numbers))
            raise LedgerError(f"{self.folder} has no round {missing} of a ledger", REMEDY)
        entries = [found for number in numbers if (found := self.entry(number)) is not None]
        heads = {size: head for size in sizes if (head := self.head(size)) is not None}
        return History(entries, heads, self.rosters())

    def settled(self) -> History:
        """The same of a ledger that grows meanwhile: without rounds whose head is to come."""
        history = self.read()
        return replace(history, entries=history.entries[: max(history.heads, default=0)])


def entry_file(folder: Path, number: int) -> Path:
    """Where a round lies in a ledger's folder."""
    return folder / "rounds" / f"{number:05d}.json"


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

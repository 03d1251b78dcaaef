"""What roster logs say of a ledger: whom a round could count, and by which keys each name cosigns.

A round's record names the head that the roster log had when it was sealed. There is one log for
every aggregator that the federation has had, the oldest first: who takes over begins one of its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gobelin.shared.errors import LedgerError
from gobelin.shared.ledger.merkle import REMEDY
from gobelin.shared.ledger.record import Entry
from gobelin.shared.roster_log import RosterLog, Signed, id_of

Place = tuple[int, int]  # which log, and how many of its records


class Rosters:
    """Roster logs, verified."""

    def __init__(self, logs: Iterable[Sequence[Signed]], aggregator_key: str) -> None:
        """Raises RosterError on a record that is not signed, or does not follow the one before."""
        self._places: dict[str, Place] = {}
        self._since: dict[tuple[int, str, str], int] = {}  # log, node, member → its first record
        self.keys: dict[str, set[str]] = {}  # that each node's name has signed with
        for number, records in enumerate(logs):
            if not records:
                continue
            log = RosterLog(records[0].record.previous, aggregator_key)
            self._places[log.head] = (number, 0)
            for signed in records:
                log.add(signed)
                record = signed.record
                self._places[log.head] = (number, len(log.records))
                who = (number, id_of(record), record.member)
                self._since.setdefault(who, len(log.records))
                self.keys.setdefault(record.node, set()).add(record.signing_key)

    def check(self, entry: Entry, before: Place | None) -> Place | None:
        """Where the roster log was in a round, or None where its record does not say.

        Raises LedgerError when no log has ever been there, when it was further `before`, and when a
        counted answer is of nobody who was on the roster by then, for that member.
        """
        number, head = entry.record.round, entry.record.roster_digest
        if not head:
            return before
        place = self._places.get(head)
        if place is None:
            raise LedgerError(f"the roster of round {number} is missing, or another", REMEDY)
        if before is not None and place < before:
            raise LedgerError(f"the roster of round {number} is older than before it", REMEDY)
        log, length = place
        for row in entry.rows:
            since = self._since.get((log, row.id, row.member))
            if row.counted and (since is None or since > length):
                raise LedgerError(
                    f"round {number} counts {row.node} for {row.member}, which the roster does not",
                    REMEDY,
                )
        return place

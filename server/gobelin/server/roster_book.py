"""The roster log on disk: a line a signed record, flushed before the change counts.

    roster/log.jsonl    {"record": {…}, "signature": "…"}

A line that a kill has torn never counted and is overwritten; anything else that is not as it was
signed is an error. The roster is what the records add up to, and nothing else says who is on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gobelin.protocols.enrolment import (
    ADMIT,
    CONTRIBUTOR,
    PURPOSE_RECORD,
    REVOKE,
    ROLE,
    RosterRecord,
)
from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.errors import ConfigError
from gobelin.shared.files import sync_folder, write_atomic
from gobelin.shared.locks import sole_owner
from gobelin.shared.roster_log import RosterLog, Signed, line_of, lines_of
from gobelin.shared.signing import SigningKey

LOCK_WAIT_S = 20.0  # for another process's change, which takes milliseconds
Rule = Callable[[Roster, str], None]  # raises where a roster has no place for a member


class RosterBook:
    """One folder with the roster's log; read by all processes, changed by one at a time."""

    def __init__(
        self,
        folder: Path,
        federation_digest: Callable[[], str],
        aggregator_key: Callable[[], str],
        require_places: Rule,
    ) -> None:
        self.file = folder / "log.jsonl"
        self._folder = folder
        self._digest = federation_digest
        self._key = aggregator_key
        self._rule = require_places
        self._seen: tuple[tuple[int, int], RosterLog] | None = None

    def found(self) -> None:
        """Write an empty log."""
        write_atomic(self.file, b"")

    def log(self) -> RosterLog:
        """The log as it is on disk now, verified; raises RosterError on a record that is not."""
        stamp = self._stamp()
        seen = self._seen
        if seen is None or seen[0] != stamp:
            seen = self._seen = (stamp, self._read()[0])
        return seen[1]

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)

    def roster(self) -> Roster:
        """Who is on the roster now."""
        return roster_of(self.log())

    def _read(self) -> tuple[RosterLog, int]:
        """The log, and where its last whole line ends."""
        log, end = RosterLog(self._digest(), self._key()), 0
        data = self.file.read_bytes() if self.file.exists() else b""
        for signed in lines_of(data, str(self.file)):
            log.add(signed)
            end += len(line_of(signed))
        return log, end

    @contextmanager
    def change(self, key_file: Path) -> Iterator[Change]:
        """Hold the log, as it is on disk now, to add to it."""
        with sole_owner(self._folder, LOCK_WAIT_S):
            log, end = self._read()
            yield Change(self.file, log, end, SigningKey.load(key_file), self._rule)

    def become(self, roster: Roster, key_file: Path) -> None:
        """Add what makes the roster this one.

        Whoever takes over a federation gets its roster as it was, and mends it where it has to be.
        """
        with self.change(key_file) as change:
            wanted = roster.by_id()
            now = {entry.id: entry for entry in map(entry_of, change.log.current.values())}
            for node_id, entry in now.items():
                if node_id not in wanted:
                    change.make(REVOKE, entry)
            for node_id, entry in wanted.items():
                if node_id not in now:
                    change.make(ADMIT, entry)
                elif now[node_id] != entry:
                    change.make(ROLE, entry)


class Change:
    """The log while it is held."""

    def __init__(
        self, file: Path, log: RosterLog, end: int, key: SigningKey, require_places: Rule
    ) -> None:
        self._file = file
        self._end = end  # of what is believed, bytes
        self._key = key
        self._rule = require_places
        self.log = log

    @property
    def roster(self) -> Roster:
        """Who is on the roster now: nobody else changes it."""
        return roster_of(self.log)

    def make(self, change: str, entry: NodeEntry, reason: str = "") -> Signed:
        """Sign one more record and write it; raises RosterError when it changes nothing."""
        record = RosterRecord(
            index=len(self.log.records),
            previous=self.log.head,
            change=change,
            member=entry.member,
            node=entry.name,
            public_key=entry.public_key,
            signing_key=entry.signing_key,
            role=entry.role,
            reason=reason,
            at=int(time.time()),
        )
        signed = Signed(record, self._key.sign(PURPOSE_RECORD, record.to_bytes()))
        self.log.add(signed)
        self._append(line_of(signed))
        return signed

    def _append(self, line: bytes) -> None:
        """Write one line behind the last and flush it."""
        if not self._file.exists():
            write_atomic(self._file, b"")
            sync_folder(self._file.parent.parent)
        with self._file.open("r+b") as file:
            file.truncate(self._end)  # what a kill or a full disk has left of a line
            file.seek(self._end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(line)

    def admit(self, entry: NodeEntry, reason: str = "") -> Signed:
        """Admit a node, or find that it is; raises what `admitted` does."""
        return self.admitted(entry) or self.make(ADMIT, entry, reason)

    def admitted(self, entry: NodeEntry) -> Signed | None:
        """The last record of a node that is on the roster; None of one that may be admitted.

        Raises ConfigError when name or key is taken, NoPlaceError.
        """
        roster = self.roster
        grown = roster.admit(entry)
        if grown is roster:
            return self.log.last_of(entry.id)
        self._require_place(grown, entry)
        return None

    def assign(self, name: str, role: str) -> None:
        """Give a node a role, or find that it has it; raises ConfigError, NoPlaceError."""
        entry = self.node(name)
        if entry.role == role:
            return
        entry = replace(entry, role=role)
        others = (node for node in self.roster.nodes if node.name != name)
        self._require_place(Roster((*others, entry)), entry)
        self.make(ROLE, entry)

    def _require_place(self, roster: Roster, entry: NodeEntry) -> None:
        if entry.role == CONTRIBUTOR:
            self._rule(roster, entry.member)

    def node(self, name: str) -> NodeEntry:
        """The node of a name; raises ConfigError when there is none on the roster."""
        for record in self.log.current.values():
            if record.node == name:
                return entry_of(record)
        raise ConfigError(
            f"no node on the roster is called {name!r}", "see `gobelin aggregator nodes`"
        )


def roster_of(log: RosterLog) -> Roster:
    """Who is on the roster by a log."""
    return Roster(tuple(map(entry_of, log.current.values())))


def entry_of(record: RosterRecord) -> NodeEntry:
    """A record's node as it stands on the roster."""
    return NodeEntry(record.member, record.node, record.public_key, record.signing_key, record.role)

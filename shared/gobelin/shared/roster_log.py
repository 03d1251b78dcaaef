"""The roster log: every change of the roster, signed and chained; the roster is their sum.

A record names the digest of the one before, the first that of the federation. So whoever has seen
a head knows a log that was rewritten behind it. Pure: files are the rim's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from gobelin.protocols.enrolment import (
    ADMIT,
    CONTRIBUTOR,
    LEAVE,
    OBSERVER,
    PURPOSE_RECORD,
    REVOKE,
    ROLE,
    RosterRecord,
)
from gobelin.protocols.messages import MalformedMessageError
from gobelin.shared.errors import ConfigError, RosterError, SignatureError
from gobelin.shared.keys import fingerprint
from gobelin.shared.signing import verify

ROLES = (CONTRIBUTOR, OBSERVER)
REMEDY = "do not rely on it; ask the aggregator's operator, and compare with other members"


@dataclass(frozen=True)
class Signed:
    """A record and the aggregator's signature over it."""

    record: RosterRecord
    signature: str

    @classmethod
    def parse(cls, data: bytes, signature: str, where: str) -> Signed:
        """Read a record; raises RosterError naming `where`."""
        try:
            return cls(RosterRecord.from_bytes(data), signature)
        except MalformedMessageError as error:
            raise RosterError(f"{where}: {error}", REMEDY) from None


class RosterLog:
    """Records in order, each verified when it is added."""

    def __init__(self, federation_digest: str, aggregator_key: str) -> None:
        self._key = aggregator_key
        self._head = federation_digest
        self.records: list[Signed] = []
        self._current: dict[str, RosterRecord] = {}  # by id, in the order of admission

    @property
    def head(self) -> str:
        """Digest of the last record; of an empty log the federation digest."""
        return self._head

    @property
    def current(self) -> Mapping[str, RosterRecord]:
        """The last record of each node that is on the roster, by id, in order of admission."""
        return self._current

    def last_of(self, node_id: str) -> Signed | None:
        """The last change of a node, by the fingerprint of its key."""
        return next((s for s in reversed(self.records) if id_of(s.record) == node_id), None)

    def add(self, signed: Signed) -> None:
        """Verify a record and put it behind the last; raises RosterError, the log unchanged."""
        record = signed.record
        where = f"roster record {len(self.records)}"
        if (record.index, record.previous) != (len(self.records), self._head):
            raise RosterError(f"{where} does not follow the one before", REMEDY)
        try:
            verify(self._key, PURPOSE_RECORD, record.to_bytes(), signed.signature)
            node_id = id_of(record)
        except (SignatureError, ConfigError):
            raise RosterError(f"{where} is not signed by the aggregator", REMEDY) from None
        here = self._current.get(node_id)
        if record.change not in (ADMIT, REVOKE, LEAVE, ROLE) or record.role not in ROLES:
            raise RosterError(f"{where} makes a change that is none", REMEDY)
        if (record.change == ADMIT) != (here is None):
            raise RosterError(f"{where} changes what is not so", REMEDY)
        if here is not None and _named(here) != _named(record):
            raise RosterError(f"{where} is of another node than its key", REMEDY)
        self.records.append(signed)
        self._head = record.digest
        if record.change in (REVOKE, LEAVE):
            del self._current[node_id]
        else:
            self._current[node_id] = record

    def extend(self, records: Iterable[Signed]) -> None:
        """Add records one after the other."""
        for signed in records:
            self.add(signed)


def require_same_history(records: Sequence[Signed], length: int, head: str) -> None:
    """Raise RosterError unless a log still begins with what was seen: `length` records to `head`.

    The federation digest, of a log without records, is checked when the log is read.
    """
    if length and (len(records) < length or records[length - 1].record.digest != head):
        raise RosterError("the roster log was rewritten since this node last saw it", REMEDY)


def line_of(signed: Signed) -> bytes:
    """A record as it stands in the log's file."""
    row = {"record": asdict(signed.record), "signature": signed.signature}
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def lines_of(data: bytes, where: str) -> Iterator[Signed]:
    """The records of a file, not verified yet; a torn last line never counted.

    Raises RosterError on a whole line that is not as `line_of` writes it.
    """
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        yield _parse(line + b"\n", f"{where}, line {number}")


def _parse(line: bytes, where: str) -> Signed:
    try:
        row = json.loads(line)
        record = RosterRecord(**row["record"])
        signed = Signed.parse(record.to_bytes(), str(row["signature"]), where)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RosterError(f"{where} is no roster record", REMEDY) from None
    if line_of(signed) != line:
        raise RosterError(f"{where} is not as it was written", REMEDY)
    return signed


def id_of(record: RosterRecord) -> str:
    """Fingerprint of the key a record is about."""
    return fingerprint(record.public_key.encode(), "the key of a roster record")


def _named(record: RosterRecord) -> tuple[str, str, str]:
    return (record.member, record.node, record.signing_key)

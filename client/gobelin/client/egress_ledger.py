"""The egress ledger: an append-only, hash-chained record of all that left this node.

A line of JSON a record, flushed before what it tells of may leave. `leaving` says what is about
to: its purpose, round, codec, digest and size. `left` says what then left on the wire. `session`
adds up the requests in between (looking for messages, heartbeats, fetching). `call` is a request to
our own service (enrolment, roster, releases), each by itself. Bytes on the wire are
those of the serialized requests, before TLS. A record's `hash` is SHA-256 over the hash before it
and the record's canonical JSON, so no line can be changed, dropped or moved, the last ones
excepted, which nothing follows.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gobelin.shared.errors import EgressError
from gobelin.shared.files import PRIVATE, sync_folder

GENESIS = "0" * 64  # the hash before the first record
LEAVING, LEFT, SESSION, CALL = "leaving", "left", "session", "call"
CONTRIBUTION = "contribution"  # a purpose
SENT_KEPT_S = 2 * 86400.0  # for which contributions are remembered, of which policies bound a day's


@dataclass(frozen=True)
class Departure:
    """What is about to leave, as the gate has found it to be."""

    purpose: str  # contribution, answer, acknowledgement
    round: int = 0
    codec: str = ""
    digest: str = ""  # of the message that leaves
    payload_bytes: int = 0  # of the encoded delta
    moments_bytes: int = 0
    metrics: tuple[str, ...] = ()  # names of the scalars that go with it
    code: str = ""  # of an answer that is an error
    cosigned: int = 0  # rounds of the ledger's head whose cosignature goes with it; 0 without one
    cosignature_bytes: int = 0
    privacy: Mapping[str, Any] | None = None  # the `Spend` behind it, where it was private


@dataclass(frozen=True)
class Totals:
    """What a ledger adds up to."""

    records: int
    departures: int  # contributions that left
    payload_bytes: int  # of them
    wire_bytes: int  # of all requests
    requests: int
    head: str

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass
class _Tail:
    """All that the next record needs of those before it: a node runs for months and stays small."""

    number: int = 0  # of the next record
    head: str = GENESIS
    end: int = 0  # bytes of the whole records
    sent: deque[tuple[float, int]] = field(default_factory=deque)  # when, bytes of contributions

    def take(self, row: Mapping[str, Any], size: int) -> None:
        """One more record, of `size` bytes."""
        self.number, self.head, self.end = self.number + 1, str(row["hash"]), self.end + size
        if row["kind"] == LEAVING and (sent := row["payload_bytes"] + row["moments_bytes"]):
            self.sent.append((row["at"], sent))
        while self.sent and self.sent[0][0] < row["at"] - SENT_KEPT_S:
            self.sent.popleft()


class EgressLedger:
    """One file; several threads and processes may append, one after the other."""

    def __init__(self, file: Path, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time in seconds."""
        self._file = file
        self._wall = wall
        self._tail: _Tail | None = None  # unknown
        self._turn = threading.RLock()

    def records(self) -> list[dict[str, Any]]:
        """All records, oldest first; raises EgressError where the chain is broken.

        What a kill has left of a line behind the last whole one is no record.
        """
        return list(self._read(_Tail()))

    def _read(self, tail: _Tail) -> Iterator[dict[str, Any]]:
        """The records behind a tail, which takes them in."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(tail.end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                record = _parse(line)
                if record.get("number") != tail.number or record.pop("hash", "") != (
                    made := _hash(tail.head, record)
                ):
                    raise EgressError(
                        f"{self._file} is damaged: record {tail.number} is not what was written",
                        "keep a copy for whoever has to know, then move it away; nothing leaves "
                        "before",
                    )
                record["hash"] = made
                tail.take(record, len(line))
                yield record

    def leaving(self, departure: Departure) -> int:
        """Record what is about to leave; returns the record's number."""
        facts = asdict(departure)
        if departure.privacy is None:
            del facts["privacy"]
        return self._append({"kind": LEAVING, **facts})

    def left(self, number: int, wire_bytes: int, requests: Mapping[str, int]) -> None:
        """Record what left on the wire of a departure; 0 bytes where the other side had it."""
        self._append({"kind": LEFT, "of": number, "wire_bytes": wire_bytes, "requests": requests})

    def session(self, wire_bytes: int, requests: Mapping[str, int]) -> None:
        """Record the requests that carried no departure."""
        if requests:
            self._append({"kind": SESSION, "wire_bytes": wire_bytes, "requests": requests})

    def call(self, method: str, request: bytes) -> None:
        """Record a request to our service that is about to leave."""
        digest = hashlib.sha256(request).hexdigest()
        facts = {"wire_bytes": len(request), "requests": {method: 1}}
        self._append({"kind": CALL, "method": method, "digest": digest, **facts})

    def sent_since(self, at: float) -> int:
        """Payload bytes of contributions recorded since Unix time `at`, at most two days ago."""
        with self._turn:
            return sum(size for when, size in self._caught_up().sent if when >= at)

    def _caught_up(self) -> _Tail:
        """The tail of the records as they are now: others append, too."""
        size = self._file.stat().st_size if self._file.exists() else 0
        if self._tail is None or size < self._tail.end:
            self._tail = _Tail()
        if size > self._tail.end:
            for _ in self._read(self._tail):
                pass
        return self._tail

    def _append(self, record: dict[str, Any]) -> int:
        new = not self._file.exists()
        flags = os.O_RDWR | os.O_CREAT
        with self._turn, os.fdopen(os.open(self._file, flags, PRIVATE), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                sync_folder(self._file.parent)
            tail = self._caught_up()
            row = json.loads(json.dumps({"number": tail.number, "at": self._wall(), **record}))
            row["hash"] = _hash(tail.head, row)
            file.truncate(tail.end)
            file.seek(tail.end)
            line = _canonical(row) + b"\n"
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            tail.take(row, len(line))
            return int(row["number"])


def total(records: list[dict[str, Any]]) -> Totals:
    """What records add up to."""
    wire = [row for row in records if row["kind"] in (LEFT, SESSION, CALL)]
    gone = {row["of"] for row in records if row["kind"] == LEFT}
    made = [
        row
        for row in records
        if row["kind"] == LEAVING and row["purpose"] == CONTRIBUTION and row["number"] in gone
    ]
    return Totals(
        records=len(records),
        departures=len(made),
        payload_bytes=sum(row["payload_bytes"] for row in made),
        wire_bytes=sum(row["wire_bytes"] for row in wire),
        requests=sum(sum(row["requests"].values()) for row in wire),
        head=records[-1]["hash"] if records else GENESIS,
    )


def when(record: Mapping[str, Any]) -> str:
    """A record's time, for people."""
    at = datetime.datetime.fromtimestamp(record["at"], datetime.UTC)
    return at.isoformat(timespec="seconds")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _hash(before: str, record: Mapping[str, Any]) -> str:
    bare = {key: value for key, value in record.items() if key != "hash"}
    return hashlib.sha256(before.encode() + b"\0" + _canonical(bare)).hexdigest()

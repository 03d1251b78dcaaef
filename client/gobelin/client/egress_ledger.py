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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gobelin.shared.errors import EgressError
from gobelin.shared.files import PRIVATE, sync_folder

GENESIS = "0" * 64  # the hash before the first record
LEAVING, LEFT, SESSION, CALL = "leaving", "left", "session", "call"
CONTRIBUTION = "contribution"  # a purpose


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


class EgressLedger:
    """One file; several threads and processes may append, one after the other."""

    def __init__(self, file: Path, wall: Callable[[], float] = time.time) -> None:
        """`wall` is Unix time in seconds."""
        self._file = file
        self._wall = wall
        self._records: list[dict[str, Any]] | None = None
        self._end = 0  # bytes of the whole records
        self._turn = threading.RLock()

    def records(self) -> list[dict[str, Any]]:
        """All records, oldest first; raises EgressError where the chain is broken.

        What a kill has left of a line behind the last whole one is no record.
        """
        data = self._file.read_bytes() if self._file.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        records: list[dict[str, Any]] = []
        before = GENESIS
        for number, line in enumerate(whole.splitlines()):
            record = _parse(line)
            if record.get("number") != number or record.pop("hash", "") != _hash(before, record):
                raise EgressError(
                    f"{self._file} is damaged: record {number} is not what was written",
                    "keep a copy for whoever has to know, then move it away; nothing leaves before",
                )
            before = _hash(before, record)
            records.append({**record, "hash": before})
        self._end = len(whole)
        return records

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
        """Payload bytes of the contributions recorded since Unix time `at`."""
        known = self._known()
        return sum(
            row["payload_bytes"] + row["moments_bytes"]
            for row in known
            if row["kind"] == LEAVING and row["at"] >= at
        )

    def _known(self) -> list[dict[str, Any]]:
        with self._turn:
            if self._records is None:
                self._records = self.records()
            return self._records

    def _append(self, record: dict[str, Any]) -> int:
        new = not self._file.exists()
        flags = os.O_RDWR | os.O_CREAT
        with self._turn, os.fdopen(os.open(self._file, flags, PRIVATE), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                sync_folder(self._file.parent)
            if os.fstat(file.fileno()).st_size != self._end:
                self._records = self.records()  # somebody else has appended, or was killed
            known = self._known()
            row = json.loads(json.dumps({"number": len(known), "at": self._wall(), **record}))
            row["hash"] = _hash(known[-1]["hash"] if known else GENESIS, row)
            file.truncate(self._end)
            file.seek(self._end)
            line = _canonical(row) + b"\n"
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._end += len(line)
            known.append(row)
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

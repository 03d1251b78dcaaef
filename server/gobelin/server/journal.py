"""The journal of the open round: its durable events, and the replies that were counted.

Append-only, a checksummed line an event, flushed before the event counts. A torn or damaged line
ends what is believed; what it would have said happens again, for nodes keep what they sent.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.envelope import ENVELOPE, SIGNATURE, SignedEnvelope
from gobelin.server.round_events import Asked, Durable
from gobelin.shared.files import file_atomic, sync_folder, write_atomic

if TYPE_CHECKING:  # who only reads the events needs no tensors
    from gobelin.server.courier import Reply

HEADER = "header"  # name of a reply's header among its arrays, which are named "array.…"
MOMENTS = "moments"  # and of its moments
ARRAYS = "arrays"  # metadata: what the arrays called themselves on the wire

_events: TypeAdapter[Durable] = TypeAdapter(Annotated[Durable, Field(discriminator="kind")])


class Journal:
    """One folder: `journal.jsonl`, and a file for every counted reply."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "journal.jsonl"
        self._end = 0  # of what is believed

    def events(self) -> list[Durable]:
        """The events so far, up to the first line that is torn or damaged."""
        events: list[Durable] = []
        self._end = 0
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:  # nothing yet, or its round has just been sealed
            data = b""
        for line in data.splitlines(True):
            event = _event(line)
            if event is None:
                break
            events.append(event)
            self._end += len(line)
        return events

    def stamp(self) -> tuple[int, int]:
        """What changes when the events do: for who reads them again and again."""
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)

    def append(self, event: Durable) -> None:
        """Write one event behind the last and flush it."""
        if not self._file.exists():
            write_atomic(self._file, b"")
            sync_folder(self._folder.parent)
        with self._file.open("r+b") as file:
            file.truncate(self._end)  # what a kill or a full disk has left of a line
            file.seek(self._end)
            line = _line(event)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(line)

    def keep(self, asked: Asked, reply: Reply) -> None:
        """Write a node's reply as it came, whole or not at all."""
        wire = {f"array.{key}": array for key, array in reply.arrays.items()}
        wire |= {MOMENTS: reply.moments} if reply.moments else {}
        tensors = {key: array.data for key, array in wire.items()} | {HEADER: reply.header}
        arrays = {key: [*array[:3]] for key, array in wire.items()}
        signed = {
            ENVELOPE: reply.envelope.data.decode("ascii"),
            SIGNATURE: reply.envelope.signature,
        }
        with file_atomic(self.path(asked)) as tmp:
            views = {key: np.frombuffer(data, np.uint8) for key, data in tensors.items()}
            save_file(views, tmp, {ARRAYS: json.dumps(arrays), **signed})

    def reply(self, asked: Asked) -> Reply | None:
        """The reply that was kept, or None when it is missing or unreadable.

        Its bytes may have changed; who reads it admits it again.
        """
        try:
            with safe_open(self.path(asked), "numpy") as file:
                said = file.metadata()
                wire = {
                    key: WireArray(dtype, tuple(shape), encoding, _bytes(file, key))
                    for key, (dtype, shape, encoding) in json.loads(said[ARRAYS]).items()
                }
                moments = wire.pop(MOMENTS, None)
                arrays = {key.removeprefix("array."): array for key, array in wire.items()}
                signed = SignedEnvelope(said[ENVELOPE].encode("ascii"), said[SIGNATURE])
                header = _bytes(file, HEADER)
                from gobelin.server.courier import Reply

                return Reply(asked.node, header, arrays, moments=moments, envelope=signed)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None

    def clear(self) -> None:
        """Forget everything; the events first, for they say what the rest is."""
        self._file.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._end = 0

    def path(self, asked: Asked) -> Path:
        """Where a reply is kept."""
        return self._folder / f"{asked}.reply"


def _line(event: Durable) -> bytes:
    body = _events.dump_json(event)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _event(line: bytes) -> Durable | None:
    """The event of a line, or None where it is not the line that was written."""
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        return _events.validate_json(body)
    except ValidationError:
        return None


def _bytes(file: Any, key: str) -> bytes:
    data: bytes = file.get_tensor(key).tobytes()
    return data

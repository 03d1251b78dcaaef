"""Signed heads as text: C2SP checkpoints (tlog-checkpoint) in signed notes (signed-note).

A head is an origin, a size and a root hash, a line each; behind an empty line come signature
lines, the aggregator's first and then nodes' cosignatures (tlog-cosignature v1, with the time).
So tools that know C2SP's formats read them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gobelin.shared.errors import LedgerError, SignatureError
from gobelin.shared.ledger.merkle import HASH, REMEDY
from gobelin.shared.signing import SigningKey, verify_text

SIGNATURE = b"\x01"  # Ed25519 over the note's text
COSIGNATURE = b"\x04"  # Ed25519 over the time and the note's text
DASH = "— "
MOST_BYTES = 1 << 20
_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


def origin_of(federation: str) -> str:
    """What a federation's ledger is called, and the name of the key that signs its heads."""
    return f"gobelin/{federation}"


@dataclass(frozen=True)
class TreeHead:
    """The first `size` leaves of a ledger in one hash."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed: three lines (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class Line:
    """A signature line: who says it has signed, by which key, and the signature's bytes."""

    name: str
    key_id: bytes  # 4 bytes
    signature: bytes  # a cosignature has the time before it, 8 bytes

    @property
    def text(self) -> str:
        """As it stands in a note."""
        return f"{DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"

    @property
    def time(self) -> int:
        """Of a cosignature, in seconds since 1970."""
        return int.from_bytes(self.signature[:8], "big")


@dataclass(frozen=True)
class SignedHead:
    """A head and who has signed it."""

    head: TreeHead
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """The note."""
        return "".join([self.head.text, "\n", *(line.text for line in self.lines)])

    @classmethod
    def parse(cls, data: bytes) -> SignedHead:
        """The note that `data` is, of which nobody has signed twice.

        Raises LedgerError on anything else, to the byte.
        """
        try:
            text = data.decode() if len(data) <= MOST_BYTES else ""
            body, mark, rest = text.partition("\n\n")
            origin, size, root = body.split("\n")
            lines = tuple(_parse_line(line) for line in rest.splitlines(keepends=True))
            if not (mark and lines and _SIZE.fullmatch(size) and _NAME.fullmatch(origin)):
                raise ValueError("no head")
            found = cls(TreeHead(origin, int(size), base64.b64decode(root, validate=True)), lines)
        except (ValueError, binascii.Error):
            raise LedgerError("a head of the ledger that is none", REMEDY) from None
        signers = {(line.name, line.key_id) for line in lines}
        if found.text != text or len(found.head.root) != HASH or len(signers) < len(lines):
            raise LedgerError("a head of the ledger that is none", REMEDY)
        return found

    def signed_by(self, public: str) -> Line:
        """The aggregator's line; raises SignatureError unless it is first, and by this key."""
        line = self.lines[0]
        named = (line.name, line.key_id) == (
            self.head.origin,
            key_id(self.head.origin, SIGNATURE, public),
        )
        if not (named and verify_text(public, self.head.text, line.signature)):
            raise SignatureError(
                f"the head of {self.head.size} rounds is not signed by {public[:16]}…", REMEDY
            )
        return line

    def with_lines(self, lines: Iterable[Line]) -> SignedHead:
        """The same head with more lines, the one of a name and key once."""
        have = {(line.name, line.key_id) for line in self.lines}
        more = [line for line in lines if (line.name, line.key_id) not in have]
        return replace(self, lines=(*self.lines, *more))


def key_id(name: str, kind: bytes, public: str) -> bytes:
    """What a signature line names a key by: the first 4 bytes of a hash (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + kind + bytes.fromhex(public)).digest()[:4]


def sign_head(key: SigningKey, head: TreeHead) -> SignedHead:
    """The head, signed by the aggregator; the same bits for the same head."""
    name = key_id(head.origin, SIGNATURE, key.public)
    return SignedHead(head, (Line(head.origin, name, key.sign_text(head.text)),))


def cosign(key: SigningKey, name: str, head: TreeHead, time: int) -> Line:
    """A node's cosignature, given at a time in seconds since 1970 (tlog-cosignature v1)."""
    stamp = time.to_bytes(8, "big")
    signature = key.sign_text(_timed(head, time))
    return Line(name, key_id(name, COSIGNATURE, key.public), stamp + signature)


def cosigned_by(line: Line, public: str, head: TreeHead) -> bool:
    """Whether a line is the cosignature of a head by this key."""
    if len(line.signature) != 72 or line.key_id != key_id(line.name, COSIGNATURE, public):
        return False
    return verify_text(public, _timed(head, line.time), line.signature[8:])


def _timed(head: TreeHead, time: int) -> str:
    return f"cosignature/v1\ntime {time}\n{head.text}"


def _parse_line(text: str) -> Line:
    name, _, data = text.removeprefix(DASH).removesuffix("\n").partition(" ")
    raw = base64.b64decode(data, validate=True)
    if not _NAME.fullmatch(name) or len(raw) < 68:
        raise ValueError("no signature line")
    return Line(name, raw[:4], raw[4:])

"""Merkle trees as Certificate Transparency hashes them (RFC 9162 §2.1), with SHA-256."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence

from gobelin.shared.errors import LedgerError

HASH = 32  # bytes
EMPTY = hashlib.sha256(b"").digest()  # the root of no leaves


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf's bytes (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows; leaves are given as their hashes.

    It takes two hashes a leaf: whoever has a ledger in memory has it for months.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # Hashes of subtrees that are full, one behind the other, by height; first the leaves.
        self._full = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._full[0]) // HASH

    def append(self, leaf: bytes) -> None:
        """One more leaf; raises ValueError on what is no hash."""
        if len(leaf) != HASH:
            raise ValueError(f"a hash of {len(leaf)} bytes")
        made = leaf
        for level in itertools.count():
            if level == len(self._full):
                self._full.append(bytearray())
            hashes = self._full[level]
            hashes += made
            if len(hashes) // HASH % 2:
                return
            made = node_hash(bytes(hashes[-2 * HASH : -HASH]), made)

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf; raises IndexError where there is none."""
        return self._at(0, range(len(self))[index])

    def _at(self, level: int, index: int) -> bytes:
        return bytes(self._full[level][index * HASH : (index + 1) * HASH])

    def root(self, size: int | None = None) -> bytes:
        """Hash of the first `size` leaves; raises ValueError when there are fewer."""
        size = self._size(size)
        return self._hash(0, size) if size else EMPTY

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The path of a leaf in the tree of the first `size` (RFC 9162 §2.1.3.1)."""
        size = self._size(size)
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} among {size}")
        path, start, end = [], 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that the first `size` leaves go on from the first `old` (RFC 9162 §2.1.4.1)."""
        size = self._size(size)
        if not 0 < old <= size:
            raise ValueError(f"no proof from {old} leaves to {size}")
        path: list[bytes] = []
        start, end, known = 0, size, True
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start, known = middle, False
        return path[::-1] if known else [self._hash(start, end), *path[::-1]]

    def _size(self, size: int | None) -> int:
        size = len(self) if size is None else size
        if not 0 <= size <= len(self):
            raise ValueError(f"{len(self)} leaves, not {size}")
        return size

    def _hash(self, start: int, end: int) -> bytes:
        """Of leaves start … end, of which there is at least one."""
        if (end - start).bit_count() == 1:  # full: no leaf to come changes it
            level = (end - start).bit_length() - 1
            return self._at(level, start >> level)
        middle = start + _split(end - start)
        return node_hash(self._hash(start, middle), self._hash(middle, end))


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Raise LedgerError unless `leaf` is number `index` in the tree (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        raise LedgerError(f"a proof of leaf {index} of {size}", REMEDY)
    place, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            raise LedgerError("an inclusion proof is too long", REMEDY)
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    if last or found != root:
        raise LedgerError(f"leaf {index} is not in the ledger of {size} leaves", REMEDY)


def verify_consistency(
    old: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes
) -> None:
    """Raise LedgerError unless the tree of `size` leaves goes on from that of `old`.

    RFC 9162 §2.1.4.2.
    """
    if not 0 < old <= size:
        raise LedgerError(f"{size} leaves do not go on from {old}", REMEDY)
    if old == size:
        steps, holds = [old_root], not path
    else:
        steps = [*([old_root] if old.bit_count() == 1 else []), *path]
        holds = bool(path)
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = steps[0] if holds else b""
    for step in steps[1:]:
        holds = holds and last > 0
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, step)
        place, last = place >> 1, last >> 1
    if not holds or (old != size and last) or (before, after) != (old_root, root):
        raise LedgerError(f"{size} leaves do not go on from the {old} known", REMEDY)


REMEDY = "keep it as evidence, and ask the aggregator's operator for the whole ledger"


def join(path: Iterable[bytes]) -> str:
    """A path as hex."""
    return b"".join(path).hex()


def split(text: str) -> list[bytes]:
    """The path that `join` wrote; raises LedgerError on anything else."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b"?"
    if len(data) % HASH or data.hex() != text:
        raise LedgerError("a path of the ledger that is none", REMEDY)
    return [data[at : at + HASH] for at in range(0, len(data), HASH)]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1

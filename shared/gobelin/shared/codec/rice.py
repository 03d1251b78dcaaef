"""Golomb–Rice coding of ascending positions: what lies between two of them, in few bits.

A gap g is written as its r lower bits and, in unary, ⌊g / 2ʳ⌋. The lower bits and the unary parts
make two streams, so both are read and written by whole arrays. Gaps between the 64 of 4096 that
are kept are geometric; r = 5 takes 7.5 bits each, the entropy is 7.4 (Golomb 1966, Rice 1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gobelin.shared.errors import CodecError

R = 5  # lower bits of a gap

Numbers = np.ndarray[Any, np.dtype[Any]]


def pack(numbers: Numbers, bits: int) -> bytes:
    """`numbers` (k,), each below 2^bits, with `bits` ≤ 8 bits each, lowest first."""
    columns = np.unpackbits(numbers.astype(np.uint8)[:, None], axis=1, bitorder="little")
    return np.packbits(columns[:, :bits], bitorder="little").tobytes()


def unpack(data: bytes, count: int, bits: int) -> Numbers:
    """The `count` numbers (uint8) that `pack` wrote; `data` has exactly their bytes."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    columns = flat.reshape(count, bits)
    return np.packbits(columns, axis=1, bitorder="little").reshape(count)


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed numbers."""
    return (count * bits + 7) // 8


def bounds(count: int, end: int) -> tuple[int, int]:
    """Least and most bytes of `count` positions below `end`."""
    lower = packed_size(count, R)
    return lower + packed_size(count, 1), lower + packed_size(count + (end >> R), 1)


def encode_positions(positions: Numbers) -> bytes:
    """Ascending int64 positions (k,), each once, as lower bits and unary parts."""
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((gaps >> R) + 1) - 1  # where each unary part has its closing 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, dtype=np.uint8)
    unary[ends] = 1
    lower = pack(gaps & ((1 << R) - 1), R)
    return lower + np.packbits(unary, bitorder="little").tobytes()


def decode_positions(data: bytes, count: int, end: int) -> Numbers:
    """The ascending int64 positions (count,) below `end`; raises CodecError on anything else."""
    split = packed_size(count, R)
    unary = np.unpackbits(np.frombuffer(data[split:], np.uint8), bitorder="little")
    ends = np.flatnonzero(unary)
    if len(data) < split or ends.size != count:
        raise CodecError("the payload has another number of positions than it says")
    if unary.size != (8 * packed_size(int(ends[-1]) + 1, 1) if count else 0):
        raise CodecError("the payload goes on behind its last position")
    gaps = ((np.diff(ends, prepend=-1) - 1) << R) | unpack(data[:split], count, R)
    positions: Numbers = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= end:
        raise CodecError("the payload has a position beyond its values")
    return positions

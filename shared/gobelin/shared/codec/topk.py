"""topk: of every 4096 values the 64 greatest by magnitude, at 2 bits each; about 200 times fewer
bytes.

Chunked top-k with 2-bit values and error feedback is SparseLoCo's (arXiv:2508.15706). A kept value
is a sign and one of two magnitudes, which are the chunk's own: the best two in the sense of least
squares. Positions are Golomb–Rice coded (7.5 bits instead of 12).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.codec import rice
from gobelin.shared.codec.bf16 import bf16_bytes, bf16_values
from gobelin.shared.codec.codec import require_finite, require_size
from gobelin.shared.errors import CodecError

CHUNK = 4096
ONE_IN = 64  # values, one is kept
VALUE_BITS = 2
HEADER = struct.Struct("<I")  # how many values are kept

Numbers = np.ndarray[Any, np.dtype[Any]]


class TopK:
    """Payload: count of kept values, two bf16 magnitudes a chunk, value codes, positions."""

    feedback = 0.95  # a residual that never gets through fades (arXiv:2508.15706)

    def encode(self, values: Tensor) -> bytes:
        """The payload of `values`; zeros are never kept."""
        whole = require_finite(values).numel() // CHUNK * CHUNK
        parts = [_Chunks.of(values[:whole].view(-1, CHUNK), 0)]
        if whole < values.numel():
            parts.append(_Chunks.of(values[whole:].view(1, -1), whole))
        positions = np.concatenate([part.positions for part in parts])
        levels = torch.from_numpy(np.concatenate([part.levels for part in parts]))
        codes = np.concatenate([part.codes for part in parts])
        return b"".join(
            [
                HEADER.pack(positions.size),
                bf16_bytes(levels.view(-1)),
                rice.pack(codes, VALUE_BITS),
                rice.encode_positions(positions),
            ]
        )

    def decode(self, data: bytes, count: int) -> Tensor:
        """The values of a payload, zero where none was kept."""
        require_size(self, data, count)
        (kept,) = HEADER.unpack_from(data)
        first = HEADER.size + 4 * _chunks(count)
        second = first + rice.packed_size(kept, VALUE_BITS)
        if kept > _most_kept(count) or len(data) < second:
            raise CodecError(f"{kept} of {count} values do not fit the payload")
        levels = bf16_values(data[HEADER.size : first]).numpy().reshape(-1, 2)
        if (levels < 0).any():
            raise CodecError("the payload holds a negative magnitude")
        codes = rice.unpack(data[first:second], kept, VALUE_BITS)
        positions = rice.decode_positions(data[second:], kept, count)
        magnitudes = levels[positions // CHUNK, codes & 1]
        values = np.zeros(count, dtype=np.float32)
        values[positions] = np.where(codes & 2, -magnitudes, magnitudes)
        return torch.from_numpy(values)

    def bounds(self, count: int) -> tuple[int, int]:
        """From nothing kept to everything that may be."""
        kept, fixed = _most_kept(count), HEADER.size + 4 * _chunks(count)
        positions = rice.bounds(kept, count)[1]
        return fixed, fixed + rice.packed_size(kept, VALUE_BITS) + positions


@dataclass(frozen=True)
class _Chunks:
    """The kept values of chunks of one length, flat and in order."""

    positions: Numbers  # (k,) int64
    levels: Numbers  # (C, 2) fp32, the lesser magnitude first
    codes: Numbers  # (k,) uint8: bit 0 the greater magnitude, bit 1 the minus sign

    @classmethod
    def of(cls, rows: Tensor, start: int) -> _Chunks:
        """Choose from chunks (C, L) that start at position `start`, where the values are."""
        length = rows.shape[1]
        chosen = rows.abs().topk(-(-length // ONE_IN), dim=1, sorted=False).indices
        chosen = chosen.sort(dim=1).values  # (C, K)
        kept = rows.gather(1, chosen).double().cpu().numpy()
        positions = start + np.arange(len(kept))[:, None] * length + chosen.cpu().numpy()
        levels, greater = _two_levels(np.abs(kept))
        codes = greater.astype(np.uint8) | ((kept < 0).astype(np.uint8) << 1)
        there = kept != 0
        return cls(positions[there], levels, codes[there])


def _two_levels(sizes: Numbers) -> tuple[Numbers, Numbers]:
    """The best two magnitudes (C, 2) for `sizes` (C, K) ≥ 0, and which take the greater (C, K).

    Zeros take none. Two-means in one dimension, solved exactly: of all cuts of the sorted sizes
    the one with least squared error, that is with the greatest Σ (sum of part)² / (its count).
    """
    width = sizes.shape[1]
    order = np.sort(sizes, axis=1)
    zeros = (sizes == 0).sum(axis=1, keepdims=True)
    below = np.cumsum(order, axis=1) - order  # (C, K): sum of what lies before the cut
    above = below[:, -1:] + order[:, -1:] - below
    counts = np.arange(width) - zeros  # before the cut, zeros aside
    gain = np.where(counts > 0, below**2 / np.maximum(counts, 1), 0.0)
    gain += above**2 / np.minimum(width - np.arange(width), np.maximum(width - zeros, 1))
    cut = np.take_along_axis(order, gain.argmax(axis=1)[:, None], axis=1)
    greater = (sizes >= cut) & (sizes > 0)
    lesser = (sizes < cut) & (sizes > 0)
    levels = np.stack([_mean(sizes, lesser), _mean(sizes, greater)], axis=1)
    return levels.astype(np.float32), greater


def _mean(sizes: Numbers, where: Numbers) -> Numbers:
    """Mean of each row's chosen sizes, 0 where none is."""
    mean: Numbers = (sizes * where).sum(axis=1) / np.maximum(where.sum(axis=1), 1)
    return mean


def _chunks(count: int) -> int:
    return -(-count // CHUNK)


def _most_kept(count: int) -> int:
    """How many of `count` values are kept at most."""
    return count // CHUNK * (CHUNK // ONE_IN) + -(-(count % CHUNK) // ONE_IN)

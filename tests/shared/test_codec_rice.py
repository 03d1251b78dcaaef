"""Golomb–Rice coding: positions come back, near the entropy, and nothing else is taken for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.codec.rice import R, bounds, decode_positions, encode_positions, pack, unpack
from gobelin.shared.errors import CodecError

POSITIONS = st.sets(st.integers(0, 9999), max_size=300).map(lambda s: np.array(sorted(s), np.int64))


@given(POSITIONS)
def test_positions_come_back(positions: np.ndarray) -> None:
    data = encode_positions(positions)
    assert bounds(len(positions), 10_000)[0] <= len(data) <= bounds(len(positions), 10_000)[1]
    assert decode_positions(data, len(positions), 10_000).tolist() == positions.tolist()


@given(POSITIONS)
def test_the_bits_are_those_of_the_textbook(positions: np.ndarray) -> None:
    """Bit by bit: r lower bits of every gap, then every quotient in unary with a closing one."""
    lower, unary, last = [], [], -1
    for position in positions.tolist():
        gap, last = position - last - 1, position
        lower += [gap >> bit & 1 for bit in range(R)]
        unary += [0] * (gap >> R) + [1]
    parts = [np.packbits(np.array(bits, np.uint8), bitorder="little") for bits in (lower, unary)]
    expected = b"".join(part.tobytes() for part in parts)
    assert encode_positions(positions) == expected


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=50))
def test_packed_numbers_come_back(bits: int, numbers: list[int]) -> None:
    small = np.array([n % (1 << bits) for n in numbers], np.uint8)
    data = pack(small, bits)
    assert len(data) == math.ceil(len(numbers) * bits / 8)
    assert unpack(data, len(numbers), bits).tolist() == small.tolist()


def test_one_in_64_takes_less_than_eight_bits_a_position() -> None:
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(4096, 64, replace=False)) + 4096 * i for i in range(244)]
    positions = np.concatenate(rows)
    bits = 8 * len(encode_positions(positions)) / len(positions)
    entropy = -math.log2(1 / 64) - 63 * math.log2(63 / 64)
    assert entropy < bits < 7.6


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 5000))
def test_random_bytes_are_positions_or_refused(data: bytes, count: int, end: int) -> None:
    try:
        positions = decode_positions(data, count, end)
    except CodecError:
        return
    assert positions.shape == (count,)
    assert bool((np.diff(positions, prepend=-1) > 0).all())
    assert count == 0 or positions[-1] < end


def test_bytes_behind_the_last_position_are_refused() -> None:
    data = encode_positions(np.array([3, 40]))
    with pytest.raises(CodecError, match="goes on"):
        decode_positions(data + b"\0", 2, 100)

"""An attack on masks that are made from 32-bit seeds: every seed's first number, many at once.

Flower 1.39 folds a pairwise key to 32 bits and seeds the Mersenne Twister with them
(`secaggplus_utils.pseudo_rand_gen`); its keys are base64 text, so bit 7 of every byte is 0 and
28 bits are left. Who sees a few numbers of one mask, say where a delta is known to be 0, finds
the seed by trying all, and takes the whole mask off.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

STATE, SHIFT = 624, 397  # of MT19937
FREE = tuple(bit for bit in range(32) if bit % 8 != 7)  # of a folded base64 key
CHUNK = 1 << 16
Seeds = NDArray[np.uint32]


def fold(key: bytes) -> int:
    """The seed that Flower makes of a key."""
    folded = 0
    for at in range(0, len(key), 4):
        folded ^= int.from_bytes(key[at : at + 4], "little")
    return folded


def first_numbers(seeds: Seeds) -> Seeds:
    """The first 32-bit output of MT19937 for each seed (n,)."""
    state = seeds.astype(np.uint32)
    first = state
    for at in range(1, SHIFT + 1):
        state = np.uint32(1812433253) * (state ^ state >> np.uint32(30)) + np.uint32(at)
        if at == 1:
            second = state
    mixed = (first & np.uint32(1 << 31)) | (second & np.uint32((1 << 31) - 1))
    twist = np.where(mixed & np.uint32(1), np.uint32(0x9908B0DF), np.uint32(0))
    y = state ^ mixed >> np.uint32(1) ^ twist
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ y >> np.uint32(18)


def candidates(known: int, bits: int) -> Iterator[Seeds]:
    """Seeds that agree with `known` but for the first `bits` of the 28 that are free."""
    free = FREE[:bits]
    fixed = np.uint32(known & ~sum(1 << bit for bit in free) & 0xFFFFFFFF)
    for start in range(0, 1 << bits, CHUNK):
        counts = np.arange(start, min(start + CHUNK, 1 << bits), dtype=np.uint32)
        seeds = np.full(len(counts), fixed, np.uint32)
        for place, bit in enumerate(free):
            seeds |= (counts >> np.uint32(place) & np.uint32(1)) << np.uint32(bit)
        yield seeds


def search(mask: NDArray[np.int64], modulus: int, known: int, bits: int) -> int | None:
    """The seed whose numbers below `modulus`, a power of two, the mask (n,) are; None if none.

    `known` gives the attacker all but `bits` bits of it, to make the search as short.
    """
    for seeds in candidates(known, bits):
        like = first_numbers(seeds) & np.uint32(modulus - 1) == np.uint32(int(mask[0]) % modulus)
        for seed in seeds[like]:
            numbers = np.random.RandomState(int(seed)).randint(0, modulus - 1, len(mask), np.int64)
            if np.array_equal(numbers, mask):
                return int(seed)
    return None

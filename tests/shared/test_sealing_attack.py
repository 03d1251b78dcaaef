"""The attack that breaks Flower's masks, and what it finds of ours.

The positive control is Flower's own code. CI gives the attacker all but 16 of the seed's 28 bits;
the slow one gives it none, and tries them all.
"""

from __future__ import annotations

import numpy as np
import pytest
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import generate_key_pairs

from gobelin.shared.sealing import Mask, add_masks
from gobelin.shared.sealing.secrets import Secrets, pair_mask, public_of
from tests.shared.seed_search import candidates, first_numbers, fold, search
from tests.shared.test_sealing import party

MODULUS = 1 << 22  # as Flower's default
LENGTH = 64


def flower_key() -> bytes:
    (private, _), (_, public) = generate_key_pairs(), generate_key_pairs()
    return bytes(generate_shared_key(private, public))


def our_key() -> bytes:
    one, two = Secrets.generate(), Secrets.generate()
    return pair_mask(party().session, one.mask, "a", "b", public_of(two.mask)).key


def ours(key: bytes, length: int = LENGTH) -> np.ndarray:
    words = np.zeros(length, np.uint32)
    add_masks(words, [Mask(key)])
    return (words % MODULUS).astype(np.int64)


def test_the_attack_computes_what_the_generator_does() -> None:
    seeds = np.array([0, 1, 5489, 0x7F7F7F7F], np.uint32)
    expected = [np.random.RandomState(int(s)).randint(0, 1 << 32, dtype=np.uint64) for s in seeds]
    assert first_numbers(seeds).tolist() == [int(number) for number in expected]


@pytest.mark.parametrize(
    "bits", [16, pytest.param(28, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_flowers_masks_are_found_by_trying_seeds_and_ours_are_not(bits: int) -> None:
    key = flower_key()
    (mask,) = pseudo_rand_gen(key, MODULUS, [(LENGTH,)])
    found = search(mask, MODULUS, fold(key), bits)
    assert found == fold(key)
    (rest,) = pseudo_rand_gen(found.to_bytes(4, "little"), MODULUS, [(1000,)])
    (whole,) = pseudo_rand_gen(key, MODULUS, [(1000,)])
    assert np.array_equal(rest, whole)  # the whole mask is known by its first numbers
    own = our_key()
    assert search(ours(own), MODULUS, fold(own), bits) is None


def test_seeds_that_are_aes_keys_do_not_give_our_masks_either() -> None:
    own = our_key()
    mask = ours(own, 4)
    for seed in next(candidates(fold(own), 12)):
        short = int(seed).to_bytes(4, "little")
        for key in (short * 8, short.ljust(32, b"\0"), short.rjust(32, b"\0")):
            assert not np.array_equal(ours(key, 4), mask)


def test_flowers_masks_hang_on_28_bits_of_the_key_and_ours_on_all() -> None:
    key = bytearray(flower_key())
    swapped = bytes(key[4:8] + key[:4] + key[8:])  # another key, the same fold
    assert swapped != bytes(key)
    assert np.array_equal(*(pseudo_rand_gen(k, MODULUS, [(99,)])[0] for k in (bytes(key), swapped)))
    own = our_key()
    assert fold(own) == fold(own[4:8] + own[:4] + own[8:])
    assert not np.array_equal(ours(own), ours(own[4:8] + own[:4] + own[8:]))
    for bit in range(256):
        other = bytearray(own)
        other[bit // 8] ^= 1 << bit % 8
        assert not np.array_equal(ours(bytes(other)), ours(own))


def test_no_bit_of_our_keys_is_the_same_in_all_of_them() -> None:
    theirs = [int.from_bytes(flower_key(), "little") for _ in range(40)]
    mine = [int.from_bytes(our_key(), "little") for _ in range(40)]

    def stuck(keys: list[int], size: int) -> int:
        ones, anys = (1 << size) - 1, 0
        for key in keys:
            ones, anys = ones & key, anys | key
        return ones.bit_count() + size - anys.bit_count()

    assert stuck(theirs, 8 * 44) >= 44  # bit 7 of every byte of base64 text
    assert stuck(mine, 256) == 0

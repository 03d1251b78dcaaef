"""Fingerprint words: two keys as six words that people can compare over the telephone.

The words are BIP-39's English list (2048, told apart by their first four letters).
"""

from __future__ import annotations

import functools
import hashlib

from mnemonic import Mnemonic

WORDS = 6  # of 11 bits: 2⁶⁶ keys to try for one with the same words
BITS = 11


def fingerprint_words(node_id: str, signing_key: str) -> str:
    """Words of a node's two keys, given the fingerprint of one and the hex digits of the other."""
    digest = hashlib.sha256(bytes.fromhex(node_id) + bytes.fromhex(signing_key)).digest()
    bits = int.from_bytes(digest, "big") >> (8 * len(digest) - WORDS * BITS)
    words = _words()
    places = [(bits >> (BITS * n)) & (2**BITS - 1) for n in reversed(range(WORDS))]
    return " ".join(words[place] for place in places)


@functools.cache
def _words() -> list[str]:
    return list(Mnemonic("english").wordlist)

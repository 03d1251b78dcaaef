"""Fingerprint words are BIP-39's, and those of one pair of keys alone."""

from __future__ import annotations

from mnemonic import Mnemonic

from gobelin.shared.words import BITS, WORDS, fingerprint_words

NODE, SIGNING = "12" * 32, "34" * 32


def test_the_words_are_the_first_bits_of_the_digest_in_bip39() -> None:
    """Known answer: SHA-256(12…12 34…34) begins with these 66 bits."""
    import hashlib

    words = fingerprint_words(NODE, SIGNING).split()
    listed = Mnemonic("english").wordlist
    bits = "".join(f"{listed.index(word):0{BITS}b}" for word in words)
    digest = hashlib.sha256(bytes.fromhex(NODE + SIGNING)).digest()
    assert bits == f"{int.from_bytes(digest, 'big'):0256b}"[: WORDS * BITS]
    assert (len(words), len(listed)) == (6, 2048)


def test_either_key_changes_the_words() -> None:
    words = {
        fingerprint_words(NODE, SIGNING),
        fingerprint_words("13" + NODE[2:], SIGNING),
        fingerprint_words(NODE, "35" + SIGNING[2:]),
    }
    assert len(words) == 3

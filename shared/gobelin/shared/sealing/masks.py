"""Masks: AES-256-CTR keystreams added to a vector modulo 2³², in pieces that stay in the cache.

A key is used for one vector only, so the counter starts at zero (NIST SP 800-38A).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from gobelin.shared.sealing.ring import Words

PIECE = 1 << 17  # words of a keystream made at once
BLOCK = 16  # bytes, AES
ZEROS = bytes(4 * PIECE)


@dataclass(frozen=True)
class Mask:
    """A keystream to add, or with `minus` to subtract."""

    key: bytes  # 32 bytes
    minus: bool = False


def add_masks(words: Words, masks: Iterable[Mask]) -> None:
    """Add masks to (P,) words in place, modulo 2³²."""
    streams = [(_stream(mask.key), mask.minus) for mask in masks]
    buffer = bytearray(4 * PIECE + BLOCK)
    stream = np.frombuffer(buffer, "<u4", PIECE)
    zeros = memoryview(ZEROS)
    for start in range(0, len(words), PIECE):
        piece = words[start : start + PIECE]
        mask = stream[: len(piece)]
        for cipher, minus in streams:
            cipher.update_into(zeros[: 4 * len(piece)], buffer)
            (np.subtract if minus else np.add)(piece, mask, out=piece)


def masked_digest(segments: Sequence[bytes | memoryview]) -> str:
    """SHA-256 over masked segments in order."""
    digest = hashlib.sha256()
    for segment in segments:
        digest.update(segment)
    return digest.hexdigest()


def _stream(key: bytes) -> CipherContext:
    return Cipher(AES(key), CTR(bytes(BLOCK))).encryptor()

"""Gaussian noise that nobody can foretell who lacks the node's secret.

The bits are an AES-256-CTR keystream. Its key derives by HMAC-SHA256 from the node's secret and
from what the noise is added to, as the nonces of RFC 6979 do: local steps that are done again
after a kill end at the same bytes, so they are released once and paid once; and where anything
differs (the data, say) the noise is independent, so no two releases differ by data alone.

A value is half the sum of four Gaussians: the last bits of one tell more of what it was added to
than its distribution allows (arXiv:2107.10138, as Opacus' secure mode).
"""

from __future__ import annotations

import hmac
import math
from hashlib import sha256

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

SUMMED = 4
PIECE = 1 << 18  # values made at once


class Secret:
    """What a node alone knows; every random stream of private training is keyed by it."""

    def __init__(self, key: bytes) -> None:
        """`key` is 32 random bytes."""
        self._key = key

    def derive(self, *purpose: str | int) -> Secret:
        """A secret for one purpose, of which the others cannot be known."""
        return Secret(self._mac("\0".join(map(str, purpose)).encode()))

    def seed(self, *purpose: str | int) -> int:
        """63 bits for a generator whose stream need not be secret, once its seed is."""
        return int.from_bytes(self.derive(*purpose)._key[:8], "big") >> 1

    def uniform(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Numbers (n,) in [0, 1), of 53 bits each."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def gaussian(self, values: Tensor) -> Tensor:
        """Standard normal noise (n,), fp64, for fp32 or fp64 values (n,) on the CPU.

        A function of the secret and of the values' bytes.
        """
        bound = Secret(self._mac(b"gaussian\0" + sha256(values.numpy().tobytes()).digest()))
        pieces = [
            bound.derive(start)._gaussian(min(PIECE, len(values) - start))
            for start in range(0, len(values), PIECE)
        ]
        return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.float64)

    def _gaussian(self, count: int) -> Tensor:
        """By Box and Muller, whose two values a pair of numbers are both used."""
        pairs = SUMMED * count // 2 + 1
        uniform = torch.from_numpy(self.uniform(2 * pairs))
        radius = (-2 * torch.log1p(-uniform[:pairs])).sqrt()  # of 1 − u > 0
        angle = 2 * math.pi * uniform[pairs:]
        normal = torch.cat([radius * angle.cos(), radius * angle.sin()])[: SUMMED * count]
        return normal.view(SUMMED, count).sum(dim=0) / math.sqrt(SUMMED)

    def _words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        cipher = Cipher(AES(self._key), CTR(bytes(16))).encryptor()
        return np.frombuffer(cipher.update(bytes(8 * count)), "<u8")

    def _mac(self, what: bytes) -> bytes:
        return hmac.digest(self._key, what, "sha256")

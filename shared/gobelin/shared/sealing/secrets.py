"""The secrets of one node in one session: two X25519 keys and a seed, and keys derived from them.

One key pair agrees on masks and may be revealed for a node that drops out; the other seals shares
and is never revealed. Keys are derived by HKDF-SHA256 (RFC 5869) bound to the session's digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gobelin.protocols.sealing import SealedSession
from gobelin.shared.errors import SealingError
from gobelin.shared.sealing.masks import Mask

HALF = 16  # bytes of a secret that Shamir's field of 2¹²⁸ elements takes at once
SIZE = 2 * HALF
NONCE = bytes(12)  # of a key that seals one message only


@dataclass(frozen=True)
class Secrets:
    """Of one node, for one session."""

    channel: bytes  # private X25519 key that seals shares
    mask: bytes  # private X25519 key that agrees on masks with each of the others
    seed: bytes  # of the mask that is this node's own

    @classmethod
    def generate(cls) -> Secrets:
        """Fresh ones."""
        return cls(os.urandom(SIZE), os.urandom(SIZE), os.urandom(SIZE))

    def advert(self) -> dict[str, str]:
        """What the others are told: public keys, and the digest that binds the seed."""
        return {
            "channel": public_of(self.channel),
            "mask": public_of(self.mask),
            "seed": hashlib.sha256(self.seed).hexdigest(),
        }


def public_of(private: bytes) -> str:
    """The public key of a private one, as hex."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def pair_mask(session: SealedSession, private: bytes, own: str, other: str, public: str) -> Mask:
    """The mask of node `own` against `other`: the first of the two ids adds, the second subtracts.

    Raises SealingError on a public key that is none.
    """
    first, second = sorted((own, other))
    key = _derive(session, _agree(private, public), "mask", first, second)
    return Mask(key, minus=own != first)


def own_mask(session: SealedSession, node: str, seed: bytes) -> Mask:
    """The mask that is a node's own."""
    return Mask(_derive(session, seed, "own", node))


def seal_share(
    session: SealedSession, private: bytes, sender: str, to: str, public: str, share: bytes
) -> str:
    """A share for one node, which only it can read; as hex."""
    key = _derive(session, _agree(private, public), "share", sender, to)
    return ChaCha20Poly1305(key).encrypt(NONCE, share, None).hex()


def open_share(
    session: SealedSession, private: bytes, sender: str, to: str, public: str, sealed: str
) -> bytes:
    """The share that `sender` has sealed for `to`; raises SealingError where it is none."""
    key = _derive(session, _agree(private, public), "share", sender, to)
    try:
        share = ChaCha20Poly1305(key).decrypt(NONCE, bytes.fromhex(sealed), None)
    except (InvalidTag, ValueError):
        share = b""
    if len(share) != 2 * SIZE:
        raise SealingError(f"the share from node {sender[:12]} is not sealed for this session")
    return share


def split(secret: bytes, threshold: int, places: int) -> list[bytes]:
    """Shamir shares of a 32-byte secret, one a place; `threshold` of them give it back."""
    first, second = (
        Shamir.split(threshold, places, half, False) for half in (secret[:HALF], secret[HALF:])
    )
    return [one + other for (_, one), (_, other) in zip(first, second, strict=True)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of shares by place, counted from 0; of too few, or wrong ones, another."""
    return b"".join(
        Shamir.combine([(place + 1, of[half : half + HALF]) for place, of in shares.items()], False)
        for half in (0, HALF)
    )


def places(session: SealedSession) -> Sequence[str]:
    """The session's nodes in the order of their shares."""
    return sorted(session.keys)


def _agree(private: bytes, public: str) -> bytes:
    try:
        key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return X25519PrivateKey.from_private_bytes(private).exchange(key)
    except ValueError:
        raise SealingError("a public key of the session is none") from None


def _derive(session: SealedSession, secret: bytes, purpose: str, *nodes: str) -> bytes:
    info = "\0".join(["gobelin:v1", purpose, session.digest, *nodes]).encode()
    return HKDF(SHA256(), SIZE, session.federation.encode(), info).derive(secret)

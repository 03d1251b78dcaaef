"""Signatures: the Ed25519 keys with which nodes and aggregators sign what they say (RFC 8032).

A signature is over a purpose and a payload, so that what was signed as one thing never passes for
another. Public keys are 64 hex digits, signatures 128. Flower's node authentication takes NIST
curves alone, so a node has a key of each kind (`keys`).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gobelin.shared.errors import ConfigError, SignatureError
from gobelin.shared.files import PRIVATE, write_atomic, write_once

DOMAIN = b"gobelin:v1:"
HEX = re.compile(r"[0-9a-f]{128}")
BEGIN = b"-----BEGIN PUBLIC KEY-----"


class SigningKey:
    """A private Ed25519 key; it never leaves the folder it was made in."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key; raises ConfigError when the file holds none."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds no readable signing key", "restore it from a backup")
        return cls(key)

    @classmethod
    def at(cls, path: Path) -> SigningKey:
        """The key in a file, made there now if there is none; raises ConfigError on another."""
        write_once(path, lambda: cls.generate()._pem())
        return cls.load(path)

    def write(self, path: Path) -> None:
        """Write the key to `path`, readable by its owner alone."""
        write_atomic(path, self._pem(), PRIVATE)

    def _pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, purpose: str, payload: bytes) -> str:
        """Signature over `payload`, said for `purpose`."""
        return self._key.sign(_bound(purpose, payload)).hex()

    def sign_text(self, text: str) -> bytes:
        """Signature (64 bytes) over a text as it is, as C2SP's signed notes want it.

        Raises ValueError on NUL, which is in every payload that `sign` signs and in no text.
        """
        return self._key.sign(_text(text))


def verify(public: str, purpose: str, payload: bytes, signature: str) -> None:
    """Raise SignatureError unless the holder of `public` signed `payload` for `purpose`."""
    try:
        if not HEX.fullmatch(signature):  # fromhex passes over spaces: one signature, many texts
            raise InvalidSignature
        _public_key(public).verify(bytes.fromhex(signature), _bound(purpose, payload))
    except (ValueError, InvalidSignature):
        raise SignatureError(
            f"this {purpose} is not signed by the key {public[:16]}…",
            "do not use it; ask whoever sent it where it comes from",
        ) from None


def verify_text(public: str, text: str, signature: bytes) -> bool:
    """Whether the holder of `public` signed this text."""
    try:
        _public_key(public).verify(signature, _text(text))
    except (ValueError, InvalidSignature):
        return False
    return True


@functools.lru_cache(maxsize=4096)  # a ledger names few keys, and each many times
def _public_key(public: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


def public_signing_pem(public: str) -> bytes:
    """SubjectPublicKeyInfo PEM of a public key given as hex."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def find_signing_key(pem: bytes, where: str) -> str:
    """The Ed25519 public key among the blocks of `pem`, as hex.

    A node.pub has one behind the node's other key, a ca.pem behind the certificate. Raises
    ConfigError naming `where` when there is none.
    """
    for block in pem.split(BEGIN)[1:]:
        try:
            key = serialization.load_pem_public_key(BEGIN + block)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw().hex()
    raise ConfigError(f"{where} holds no signing key", "ask for the file again, whole")


def _bound(purpose: str, payload: bytes) -> bytes:
    return DOMAIN + purpose.encode() + b"\0" + payload


def _text(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a text with NUL in it")
    return text.encode()

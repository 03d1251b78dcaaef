"""Invites: all that a node needs to join a federation, in one line of text.

    gobelin1- base64url( Invite of federation.proto ‖ first 4 bytes of SHA-256 over it )

The secret is not sent anywhere: it stands for a key (P-256), which the node shows in the TLS
handshake with our service. The aggregator keeps the public one alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from gobelin.protocols import federation_pb2
from gobelin.shared.address import parse_address
from gobelin.shared.errors import ConfigError, InviteError
from gobelin.shared.keys import fingerprint, public_pem

VERSION = 1
PREFIX = "gobelin1-"
CHECK_BYTES = 4
SECRET_BYTES = 20  # 160 bits
MAX_CHARS = 2000
ID_DIGITS = 16
AGAIN = "ask the aggregator's operator for a new one (`gobelin aggregator invite`)"
WHOLE = "copy it again, whole"
# Order of P-256 (FIPS 186-5, SP 800-186 §3.2.1.3).
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Invite:
    """A parsed invite; its text is a secret."""

    federation: str
    member: str
    service: str  # host:port of our service
    fleet: str  # host:port of Flower's Fleet API
    ca_pin: str  # hex
    federation_digest: str  # hex
    secret: bytes = field(repr=False)
    expires: int  # Unix seconds

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite; raises InviteError on anything that is not one, whole."""
        told = "".join(text.split())
        if not told.startswith(PREFIX) or len(told) > MAX_CHARS:
            raise InviteError("this is no invite: it begins otherwise", WHOLE)
        try:
            data = _decode(told.removeprefix(PREFIX))
        except (ValueError, binascii.Error):
            raise InviteError("this invite has characters that no invite has", WHOLE) from None
        body, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
        if _check(body) != check:
            raise InviteError("this invite is mistyped: its checksum does not fit", WHOLE)
        try:
            return cls._of(federation_pb2.Invite.FromString(body))
        except (DecodeError, ConfigError, UnicodeDecodeError):
            raise InviteError("this invite is damaged", AGAIN) from None

    @classmethod
    def _of(cls, told: federation_pb2.Invite) -> Invite:
        if told.version != VERSION:
            raise InviteError(f"this invite is of version {told.version}", "upgrade gobelin here")
        lengths = (len(told.ca_pin), len(told.federation_digest), len(told.secret))
        if lengths != (32, 32, SECRET_BYTES) or not told.federation or not told.member:
            raise InviteError("this invite is damaged", AGAIN)
        for address in (told.service, told.fleet):
            parse_address(address)
        return cls(
            federation=told.federation,
            member=told.member,
            service=told.service,
            fleet=told.fleet,
            ca_pin=told.ca_pin.hex(),
            federation_digest=told.federation_digest.hex(),
            secret=told.secret,
            expires=told.expires,
        )

    def text(self) -> str:
        """The one line that is handed over."""
        body = federation_pb2.Invite(
            version=VERSION,
            federation=self.federation,
            member=self.member,
            service=self.service,
            fleet=self.fleet,
            ca_pin=bytes.fromhex(self.ca_pin),
            federation_digest=bytes.fromhex(self.federation_digest),
            secret=self.secret,
            expires=self.expires,
        ).SerializeToString(deterministic=True)
        coded = base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")
        return PREFIX + coded

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key its secret stands for (FIPS 186-5 A.2.1, with 64 bits to spare)."""
        info = b"gobelin:v1:invite key"
        bits = HKDF(hashes.SHA256(), 40, salt=None, info=info).derive(self.secret)
        number = int.from_bytes(bits, "big") % (P256_ORDER - 1) + 1
        return ec.derive_private_key(number, ec.SECP256R1())

    @property
    def id(self) -> str:
        """Its name in logs and files; it says nothing of the secret."""
        return fingerprint(public_pem(self.key.public_key()))[:ID_DIGITS]

    def require_fresh(self, now: float | None = None) -> None:
        """Raise InviteError when it has expired by this machine's clock."""
        late = (time.time() if now is None else now) - self.expires
        if late > 0:
            raise InviteError(f"this invite expired {describe_seconds(late)} ago", AGAIN)


def new_secret() -> bytes:
    """A fresh secret."""
    return secrets.token_bytes(SECRET_BYTES)


def describe_seconds(seconds: float) -> str:
    """A length of time in its largest fitting unit, such as 3 h."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _check(body: bytes) -> bytes:
    return hashlib.sha256(b"gobelin:v1:invite\0" + body).digest()[:CHECK_BYTES]


def _decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise ValueError("not the one text of these bytes")
    return data

"""Public keys for rosters in tests: the same for the same number."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gobelin.client.home import NodeHome
from gobelin.server.roster import NodeEntry
from gobelin.shared.keys import public_pem
from gobelin.shared.signing import SigningKey, public_signing_pem


def signing_key(number: int) -> SigningKey:
    """The signing key of node `number`."""
    seed = hashlib.sha256(f"signing {number}".encode()).digest()
    return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))


def node_pub(number: int) -> bytes:
    """What stands in node.pub of node `number`."""
    key = ec.derive_private_key(number, ec.SECP384R1()).public_key()
    return public_pem(key) + public_signing_pem(signing_key(number).public)


def entry(member: str, name: str, number: int) -> NodeEntry:
    """Node `number` on a roster."""
    return NodeEntry.of(member, name, node_pub(number), name)


def write_keys(home: NodeHome, number: int = 1, aggregator: int = 2) -> None:
    """The keys a node's home needs to train in: its own, and an aggregator's to believe."""
    signing_key(number).write(home.signing_key_file)
    home.public_key_file.write_bytes(node_pub(number))
    home.ca_file.write_bytes(public_signing_pem(signing_key(aggregator).public))

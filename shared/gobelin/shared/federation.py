"""What a federation is, as one digest: its name, its CA, its aggregator's key, its first model.

Invites carry the digest, the roster log begins with it, and a node pins it when it joins.
"""

from __future__ import annotations

import hashlib
import json

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gobelin.shared.errors import ConfigError


def spki_pin(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate's SubjectPublicKeyInfo, hex (the pin of RFC 7469 §2.4)."""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def parse_certificate(pem: bytes, where: str) -> x509.Certificate:
    """The first certificate in `pem`; raises ConfigError naming `where` when there is none."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigError(f"{where} is no certificate", "restore it from a backup") from None


def federation_digest(name: str, ca_pin: str, signing_key: str, genesis: str) -> str:
    """SHA-256 over what never changes of a federation, hex.

    `ca_pin` is the CA's `spki_pin`, `signing_key` the aggregator's, `genesis` the digest of the
    model that round 1 starts from.
    """
    facts = {"ca": ca_pin, "federation": name, "genesis": genesis, "signing_key": signing_key}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(b"gobelin:v1:federation\0" + text.encode()).hexdigest()

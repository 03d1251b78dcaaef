"""Keys and certificates: a node's own EC key, and the federation's CA with its server certificate.

What signs statements is a key of another kind (`signing`); the aggregator's public one stands in
ca.pem behind the certificate, so that a node which pins the file pins both.

All primitives are `cryptography`'s. Private keys are written 0600 and never leave their folder.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gobelin.shared.errors import ConfigError
from gobelin.shared.files import PRIVATE, PUBLIC, write_atomic
from gobelin.shared.signing import SigningKey, public_signing_pem

CA_DAYS = 3650
SERVER_DAYS = 397


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key on P-384 (Flower's node authentication takes NIST curves)."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM of a private key, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo PEM of a public key."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key; raises ConfigError when the file is not one."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} holds no readable private key", "run `init` again") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an elliptic-curve key", "run `init` again")
    return key


def parse_public_key(pem: bytes, where: str) -> ec.EllipticCurvePublicKey:
    """Parse a public key; raises ConfigError naming `where`."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where} holds no public key", "ask for the node's node.pub") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{where} is not an elliptic-curve key", "ask for the node's node.pub")
    return key


def check_certificate(pem: bytes, where: str) -> None:
    """Raise ConfigError unless `pem` is one whole certificate."""
    try:
        x509.load_pem_x509_certificate(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{where} is no certificate", "ask the aggregator's operator for ca.pem"
        ) from None


@functools.lru_cache(maxsize=4096)  # a roster is gone through for every reply
def fingerprint(pem: bytes, where: str = "key") -> str:
    """SHA-256 over the key's DER form, as 64 hex digits: the identity of a node."""
    key = parse_public_key(pem, where)
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def write_authority(folder: Path, federation: str, hosts: Iterable[str]) -> None:
    """Found the federation's CA in `folder` and sign a server certificate for `hosts`.

    Writes ca.pem, ca.key, server.pem, server.key, signing.key.
    """
    ca_key = make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} CA"[:64])])
    ca = (
        certificate_builder(name, name, ca_key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA384())
    )
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} aggregator"[:64])])
    names = x509.SubjectAlternativeName([_name(h) for h in hosts])
    server = _server_certificate(subject, name, names, key.public_key(), ca_key)
    write_atomic(folder / "ca.key", private_pem(ca_key), PRIVATE)
    write_atomic(folder / "server.key", private_pem(key), PRIVATE)
    write_atomic(folder / "server.pem", server.public_bytes(serialization.Encoding.PEM), PUBLIC)
    signing = SigningKey.generate()
    signing.write(folder / "signing.key")
    pem = ca.public_bytes(serialization.Encoding.PEM) + public_signing_pem(signing.public)
    write_atomic(folder / "ca.pem", pem, PUBLIC)


def renew_server_certificate(folder: Path) -> datetime.datetime:
    """Sign server.pem in `folder` anew, for the same key and hosts; returns when it ends.

    Nodes notice nothing: they pin the CA. Raises ConfigError where a file is damaged or missing.
    """
    file = folder / "server.pem"
    try:
        old = x509.load_pem_x509_certificate(file.read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        raise ConfigError(f"{file} is no server certificate", "restore it from a backup") from None
    ca_key, key = load_private_key(folder / "ca.key"), load_private_key(folder / "server.key")
    new = _server_certificate(old.subject, old.issuer, names, key.public_key(), ca_key)
    write_atomic(file, new.public_bytes(serialization.Encoding.PEM), PUBLIC)
    return new.not_valid_after_utc


def _server_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    names: x509.SubjectAlternativeName,
    key: ec.EllipticCurvePublicKey,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    return (
        certificate_builder(subject, issuer, key, SERVER_DAYS)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
        .sign(ca_key, hashes.SHA384())
    )


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    """An unsigned certificate that holds from five minutes ago for `days`."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def key_usage(signs_certificates: bool) -> x509.KeyUsage:
    """Usage of a key that signs certificates, or of one that signs handshakes."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

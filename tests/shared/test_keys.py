"""Keys are private, identities are stable, and the CA signs a server clients can verify."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from gobelin.shared.errors import ConfigError
from gobelin.shared.keys import (
    fingerprint,
    load_private_key,
    make_key,
    parse_public_key,
    private_pem,
    public_pem,
    write_authority,
)

HOSTS = ["aggregator.example", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write_authority(folder, "fed", HOSTS)
    return folder


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(ca: Path, server: Path, host: str, strict: bool = False) -> None:
    """One TLS handshake in memory; raises ssl.SSLCertVerificationError where a client would."""
    client_side = ssl.create_default_context(cafile=str(ca / "ca.pem"))
    client_side.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if strict:  # the default of Python 3.13 and later
        client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(server / "server.pem", server / "server.key")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    served = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, served):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.version() == "TLSv1.3"


def test_private_keys_are_for_their_owner_only(tls: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in tls.iterdir()}
    private = {"ca.key": 0o600, "server.key": 0o600, "signing.key": 0o600}
    assert modes == {**private, "ca.pem": 0o644, "server.pem": 0o644}


def test_a_private_key_comes_back(tmp_path: Path) -> None:
    key = make_key()
    (tmp_path / "node.key").write_bytes(private_pem(key))
    again = load_private_key(tmp_path / "node.key")
    assert again.private_numbers() == key.private_numbers()
    assert again.curve.name == "secp384r1"


def test_every_key_is_a_fresh_one() -> None:
    assert fingerprint(public_pem(make_key().public_key())) != fingerprint(
        public_pem(make_key().public_key())
    )


def test_a_fingerprint_is_the_keys_and_not_the_texts() -> None:
    key = make_key().public_key()
    pem = public_pem(key)
    assert fingerprint(pem) == fingerprint(pem)
    assert len(fingerprint(pem)) == 64
    assert fingerprint(pem.replace(b"\n", b"\r\n")) == fingerprint(pem)
    assert fingerprint(b"a comment\n" + pem + b"\n") == fingerprint(pem)
    assert fingerprint(public_pem(parse_public_key(pem, "here"))) == fingerprint(pem)


def test_the_fingerprint_of_a_known_key_is_pinned() -> None:
    """Rosters on disk hold fingerprints: they must not change with a release."""
    key = ec.derive_private_key(12345, ec.SECP384R1()).public_key()
    assert fingerprint(public_pem(key)) == (
        "b13919f9259ed2d7b9460609ac551cdd8c2b6c9d8d774d4a8948cac0248933fc"
    )


@pytest.mark.parametrize("host", HOSTS)
def test_the_server_is_trusted_under_each_of_its_names(tls: Path, host: str) -> None:
    verify(tls, tls, host)


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2", "localhost"])
def test_the_server_is_not_trusted_under_other_names(tls: Path, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        verify(tls, tls, host)


def test_the_server_is_not_trusted_by_another_federation(tls: Path, tmp_path: Path) -> None:
    write_authority(tmp_path, "fed", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        verify(tmp_path, tls, HOSTS[0])
    with pytest.raises(InvalidSignature):
        certificate(tls / "server.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_the_server_is_trusted_by_a_strict_client(tls: Path) -> None:
    """Python 3.13 makes VERIFY_X509_STRICT the default of ssl.create_default_context."""
    verify(tls, tls, HOSTS[0], strict=True)


def test_the_names_of_the_server_are_the_hosts_exactly(tls: Path) -> None:
    names = certificate(tls / "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["aggregator.example"]
    assert list(map(str, names.value.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]


def test_only_the_ca_may_sign_certificates(tls: Path) -> None:
    ca, server = certificate(tls / "ca.pem"), certificate(tls / "server.pem")
    for cert, signs in ((ca, True), (server, False)):
        extensions = cert.extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is signs
        assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is signs
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("who", ["ca", "server"])
def test_a_certificate_belongs_to_the_key_beside_it_and_is_valid_now(tls: Path, who: str) -> None:
    cert, key = certificate(tls / f"{who}.pem"), load_private_key(tls / f"{who}.key")
    assert cert.public_key() == key.public_key()
    now = datetime.datetime.now(datetime.UTC)
    assert cert.not_valid_before_utc <= now < cert.not_valid_after_utc


def test_the_longest_name_of_a_federation_fits_its_certificates(tmp_path: Path) -> None:
    write_authority(tmp_path, "f" * 64, ["localhost"])
    assert certificate(tmp_path / "server.pem").issuer == certificate(tmp_path / "ca.pem").subject


GARBAGE = {
    "empty": b"",
    "text": b"not a key",
    "binary": bytes(range(256)),
    "cut": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "cut public": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_for_a_key_is_refused_by_its_name(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=r"node\.key"):
        load_private_key(file)
    with pytest.raises(ConfigError, match="the key of north"):
        parse_public_key(data, "the key of north")
    with pytest.raises(ConfigError, match="the key of north"):
        fingerprint(data, "the key of north")


def test_a_missing_or_encrypted_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_private_key(tmp_path / "gone.key")
    (tmp_path / "locked.key").write_bytes(
        make_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError):
        load_private_key(tmp_path / "locked.key")


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    private: list[ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey] = [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 1024),
    ]
    for key in private:
        (tmp_path / "node.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        with pytest.raises(ConfigError, match="elliptic"):
            load_private_key(tmp_path / "node.key")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(ConfigError, match="elliptic"):
            parse_public_key(public, "here")


def test_a_private_key_is_no_public_key() -> None:
    with pytest.raises(ConfigError, match=r"node\.pub"):
        parse_public_key(private_pem(make_key()), "here")

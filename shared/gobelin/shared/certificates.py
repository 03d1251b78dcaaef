"""Client certificates: what a node shows our service, before it is enrolled and after.

Before, a certificate under the key that an invite's secret stands for; afterwards one that the
federation's CA has signed for the node's own key, for a week at most. A caller is known by its key,
which TLS proves it has: names in certificates decide nothing.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gobelin.shared.errors import OTHER_VERSION, ConfigError
from gobelin.shared.keys import certificate_builder, key_usage

NODE_DAYS = 7.0  # renewed at two thirds of it
RENEW_AT = 2 / 3
ANCHOR_DAYS = 3650.0  # of an invite's key: whether the invite still holds is told in words


def make_csr(key: ec.EllipticCurvePrivateKey, node: str, signing_key: str) -> bytes:
    """A certificate signing request of a node's key, PEM: it proves possession (RFC 2986).

    It names the node's other key, so that nobody else can show the request as his own.
    """
    subject = x509.Name([*_named(node), x509.NameAttribute(NameOID.SERIAL_NUMBER, signing_key)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def key_of_csr(pem: bytes, signing_key: str) -> ec.EllipticCurvePublicKey:
    """The key a request is for; raises ConfigError unless its holder signed it for this other key.

    Keys are P-384, as `make_key` makes them.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
        named = [a.value for a in request.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    except Exception:
        raise ConfigError("this is no certificate signing request", OTHER_VERSION) from None
    key = request.public_key()
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE:
        raise ConfigError(
            "the certificate signing request is not signed by its own P-384 key", OTHER_VERSION
        )
    if named != [signing_key]:
        raise ConfigError(
            "the certificate signing request is for another signing key", OTHER_VERSION
        )
    return key


CURVE = ec.SECP384R1.name


def certify_node(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    node: str,
    days: float = NODE_DAYS,
) -> bytes:
    """A client certificate of the federation's CA for a node's key, PEM."""
    certificate = (
        certificate_builder(_named(node), ca.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
        .sign(ca_key, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def anchor(key: ec.EllipticCurvePrivateKey, invite: str) -> bytes:
    """The certificate by which our service knows an invite's key, PEM."""
    name = _named(f"invite {invite}")
    certificate = (
        certificate_builder(name, name, key.public_key(), ANCHOR_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def invited(key: ec.EllipticCurvePrivateKey, invite: str) -> bytes:
    """The client certificate that the holder of an invite makes itself, PEM.

    It holds at any time: the clock of whoever joins may be wrong, and is to be told so.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named("joining"))
        .issuer_name(_named(f"invite {invite}"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issued_by(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether `ca` signed `certificate` itself."""
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        return False
    return True


def renewal_time(certificate: x509.Certificate) -> float:
    """Unix seconds at which a certificate should be renewed: two thirds through its life."""
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return start + RENEW_AT * (end - start)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])

"""OpenSSF Model Signing v1: one signed file, model.sig, that binds every file of a folder.

A Sigstore bundle (v0.3, JSON) around a DSSE envelope around an in-toto statement (v1) with the
predicate https://model_signing/signature/v1.0. The format's own tool, `model-signing`, verifies it
with the EC public key beside it: it knows NIST curves alone, which is why releases have such a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gobelin.shared.errors import ConfigError, ReleaseError
from gobelin.shared.files import file_digest, json_bytes, write_atomic, write_once
from gobelin.shared.keys import load_private_key, private_pem, public_pem
from gobelin.shared.shelf import SIGNATURE as SIGNATURE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SERIALIZATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": [SIGNATURE],
}
REMEDY = "do not use it; fetch the release again"


class ReleaseKey:
    """The EC key (P-256) that releases are signed with; it stays where it was made."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = public_pem(key.public_key()).decode()

    @classmethod
    def at(cls, path: Path) -> ReleaseKey:
        """The key in a file, made there now if there is none; raises ConfigError on another."""
        write_once(path, lambda: private_pem(ec.generate_private_key(ec.SECP256R1())))
        key = load_private_key(path)
        if not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{path} is not a P-256 key", "restore it from a backup")
        return cls(key)

    def sign(self, payload: bytes) -> bytes:
        """ECDSA signature with SHA-256, over the envelope's encoding of `payload`."""
        return self._key.sign(_encoding(payload), ec.ECDSA(hashes.SHA256()))


def sign_folder(folder: Path, name: str, key: ReleaseKey) -> None:
    """Write model.sig, over every other file of a folder, for a release called `name`."""
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digest}
        for path, digest in _digests(folder).items()
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _together(resources)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": SERIALIZATION, "resources": resources},
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    signature = {"sig": _text(key.sign(payload)), "keyid": ""}
    bundle = _bundle(payload, signature, key.public)
    write_atomic(folder / SIGNATURE, json_bytes(bundle))


def verify_folder(folder: Path, public: str) -> list[str]:
    """Names of the signed files, all of which are there as they were signed, and no others.

    `public` is the PEM of the EC key; raises ReleaseError naming what differs.
    """
    signed = signed_digests(folder / SIGNATURE, public)
    found = _digests(folder)
    for name in sorted(signed.keys() | found.keys()):
        if signed.get(name) != found.get(name):
            what = "is not as it was signed" if name in signed else "was never signed"
            what = what if name in found else "is missing"
            raise ReleaseError(f"{folder / name} {what}", REMEDY)
    return sorted(signed)


def signed_digests(file: Path, public: str) -> dict[str, str]:
    """SHA-256 of every file by name, as a model.sig says it; see `verify_folder`."""
    data = _read(file)
    try:
        bundle = json.loads(data)
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        raw = base64.b64decode(signature["sig"], validate=True)
        if json_bytes(_bundle(payload, {"sig": _text(raw), "keyid": ""}, public)) != data:
            raise ValueError("another bundle, or of another key")
        _key_of(public).verify(raw, _encoding(payload), ec.ECDSA(hashes.SHA256()))
        return _resources(json.loads(payload))
    except (ValueError, KeyError, TypeError, InvalidSignature, binascii.Error, RecursionError):
        raise ReleaseError(
            f"{file} is not the bundle that the release key signed", REMEDY
        ) from None


def _bundle(payload: bytes, signature: Mapping[str, str], public: str) -> dict[str, Any]:
    hint = hashlib.sha256(public.encode()).hexdigest()
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _text(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [dict(signature)],
        },
    }


def _resources(statement: Mapping[str, Any]) -> dict[str, str]:
    """The signed files and their digests; raises ValueError, KeyError or TypeError on others."""
    predicate = statement["predicate"]
    (subject,) = statement["subject"]
    kinds = (statement["_type"], statement["predicateType"], predicate["serialization"])
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE, SERIALIZATION):
        raise ValueError("another kind of statement")
    if subject["digest"] != {"sha256": _together(predicate["resources"])}:
        raise ValueError("the files are not the subject")
    return {row["name"]: row["digest"] for row in predicate["resources"]}


def _together(resources: list[dict[str, str]]) -> str:
    """The digest of a whole release: SHA-256 over the files' digests, in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(row["digest"]) for row in resources)).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Digests of a folder's files by path, in order; raises ReleaseError on a link."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ReleaseError(f"{path} is a link, which nothing signs", REMEDY)
        if path.is_file() and name != SIGNATURE:
            digests[name] = file_digest(path)
    return dict(sorted(digests.items()))


def _encoding(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (v1)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _key_of(public: str) -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_public_key(public.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ReleaseError(f"{path.parent} is not signed: it has no {path.name}", REMEDY) from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""A release: a checkpoint with the aggregator's word on it, its proof, its bill and its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.protocols.ledger import Proof, ReleaseStatement
from gobelin.protocols.messages import MalformedMessageError
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.errors import LedgerError, ReleaseError, SignatureError
from gobelin.shared.files import json_bytes, write_atomic
from gobelin.shared.ledger import SignedHead, check_proof, origin_of
from gobelin.shared.release.bundle import REMEDY, ReleaseKey, sign_folder, verify_folder
from gobelin.shared.shelf import STATEMENT as FILE
from gobelin.shared.signing import SigningKey, verify

KEY_FILE = "release.pub"  # the EC public key, for tools that know no Ed25519
PURPOSE = "release"


@dataclass(frozen=True)
class Release:
    """A release that holds."""

    statement: ReleaseStatement
    head: SignedHead
    checkpoint: Checkpoint
    files: tuple[str, ...]

    @property
    def said(self) -> str:
        """A line for people."""
        of = self.statement
        return (
            f"release holds: {of.federation}, round {of.round}, consensus {of.vector_digest[:12]}"
        )

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        told = self.statement.plain()
        del told["kind"], told["key"]
        return {**told, "files": list(self.files), "size": self.head.head.size}


def seal_release(
    folder: Path,
    name: str,
    statement: ReleaseStatement,
    proof: Proof,
    head: SignedHead,
    keys: tuple[SigningKey, ReleaseKey],
) -> None:
    """Put the statement, its proof and the bundle into a folder that holds all other files."""
    signing, release = keys
    told = {
        "statement": statement.plain(),
        "signature": signing.sign(PURPOSE, statement.to_bytes()),
        "proof": proof.plain(),
        "head": head.text,
    }
    write_atomic(folder / FILE, json_bytes(told))
    write_atomic(folder / KEY_FILE, release.public.encode())
    sign_folder(folder, name, release)


def verify_release(folder: Path, public: str) -> Release:
    """The release in a folder, every byte of it checked against the aggregator's signing key.

    Raises ReleaseError or SignatureError naming what differs, CheckpointError when the model is
    not the manifest's.
    """
    statement, proof, head = _signed_statement(folder / FILE, public)
    files = verify_folder(folder, statement.key)
    if (folder / KEY_FILE).read_text() != statement.key:
        raise ReleaseError(f"{folder / KEY_FILE} is not the key the aggregator named", REMEDY)
    _check_proof(folder, statement, proof, head, public)
    checkpoint = read_checkpoint(folder)
    if checkpoint.vector.digest != statement.vector_digest:
        raise ReleaseError(f"{folder} holds another model than its statement says", REMEDY)
    return Release(statement, head, checkpoint, tuple(files))


def read_statement(file: Path, public: str) -> ReleaseStatement:
    """The statement in a release.json, signed by the aggregator; nothing else is looked at.

    Raises ReleaseError or SignatureError.
    """
    return _signed_statement(file, public)[0]


def _signed_statement(file: Path, public: str) -> tuple[ReleaseStatement, Proof, SignedHead]:
    data = _read(file)
    try:
        values = json.loads(data)
        statement = ReleaseStatement.of_plain(values["statement"])
        proof = Proof.of_plain(values["proof"])
        signature = values["signature"]
        head = SignedHead.parse(values["head"].encode())
    except (ValueError, KeyError, TypeError, AttributeError, LedgerError, MalformedMessageError):
        raise ReleaseError(f"{file} is no statement on a release", REMEDY) from None
    verify(public, PURPOSE, statement.to_bytes(), str(signature))
    return statement, proof, head


def _check_proof(
    folder: Path, statement: ReleaseStatement, proof: Proof, head: SignedHead, public: str
) -> None:
    try:
        head.signed_by(public)
        record, _ = check_proof(proof, head.head.size, head.head.root)
    except (LedgerError, SignatureError) as error:
        raise ReleaseError(f"{folder}: {error.what}", REMEDY) from None
    said = (statement.federation, statement.round, statement.vector_digest)
    if (record.federation, record.round, record.vector_digest) != said:
        raise ReleaseError(f"{folder} is not what the ledger has of round {record.round}", REMEDY)
    if head.head.origin != origin_of(statement.federation):
        raise ReleaseError(f"{folder} has a head of another federation", REMEDY)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise ReleaseError(f"{file.parent} is no release: it has no {file.name}", REMEDY) from None

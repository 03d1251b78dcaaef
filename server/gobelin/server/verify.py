"""Verifying from a folder, offline: a release, a receipt, or a whole history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gobelin.protocols.ledger import Proof
from gobelin.protocols.messages import MalformedMessageError, Receipt
from gobelin.server.home import AggregatorHome
from gobelin.server.replay import replay
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.errors import (
    GobelinError,
    LedgerError,
    RosterError,
    StateError,
    TwoHistoriesError,
)
from gobelin.shared.federation import federation_digest, parse_certificate, spki_pin
from gobelin.shared.files import read_json
from gobelin.shared.ledger import (
    History,
    LedgerFolder,
    SignedHead,
    Tree,
    check_proof,
    entry_of,
    influence_of,
    verify_history,
)
from gobelin.shared.locks import is_owned
from gobelin.shared.release import Watch, verify_release
from gobelin.shared.roster_log import REMEDY
from gobelin.shared.shelf import STATEMENT as RELEASE
from gobelin.shared.signing import find_signing_key

KEYS = ("ca.pem", "tls/ca.pem", "../ca.pem", "../tls/ca.pem", "../../ca.pem", "../../tls/ca.pem")
LEDGER = "ledger"
BEGIN = b"-----BEGIN CERTIFICATE-----"


def verify_path(
    path: Path, key: Path | None, *, replayed: bool, influence: bool, memory: Path | None
) -> dict[str, Any]:
    """Check what lies at a path; returns what it says, with `said`, a line for people.

    Raises the errors of what does not hold; StateError when it is nothing that can be verified.
    """
    pem, public, pinned = _key(path, key)
    if path.is_file():
        told = verify_receipt(path, public)
    elif (path / RELEASE).exists():
        told = _release(path, public, memory)
    elif (path / LEDGER).is_dir():
        home = AggregatorHome(path)
        _check_federation(home, pem, public)
        told = verify_home(home, public, replayed=replayed, influence=influence)
    else:
        raise StateError(
            f"{path} is no release, no receipt and no ledger",
            "name a release's folder, a receipt's file, an export or an aggregator's home",
        )
    return {**told, "signed_by": public, "key_pinned": pinned}


def verify_receipt(path: Path, public: str) -> dict[str, Any]:
    """A node's receipt with its proof; raises LedgerError or SignatureError."""
    try:
        values = read_json(path)
        receipt = Receipt.of_plain(values["receipt"])
        proof = Proof.of_plain(values["proof"])
        head = SignedHead.parse(values["head"].encode())
    except (KeyError, TypeError, AttributeError, MalformedMessageError, StateError):
        raise LedgerError(f"{path} is no receipt", "take it from the node's home again") from None
    head.signed_by(public)
    record, row = check_proof(proof, head.head.size, head.head.root)
    told = (receipt.federation, receipt.round, receipt.delta_digest, receipt.weight)
    if row is None or told != (record.federation, row.asked, row.delta_digest, row.weight):
        raise LedgerError(
            f"{path} is not what the ledger says",
            "keep it as evidence, and show it to the other members",
        )
    said = (
        f"receipt holds: what {row.node} of {row.member} made for round {row.asked} counted in "
        f"round {row.round} with weight {row.weight:.3g}"
    )
    told_row = row.plain()
    return {**told_row, "kind": "receipt", "said": said, "size": head.head.size}


def verify_home(
    home: AggregatorHome, public: str, *, replayed: bool = False, influence: bool = False
) -> dict[str, Any]:
    """The whole history in an aggregator's home or an export, with the rounds that lie there.

    Of an aggregator that is up it is as of now: what it seals and releases meanwhile is passed
    over, and what retention removes meanwhile is not there, as what it has removed before.
    """
    sealed, releases = home.sealed_rounds(), _releases(home)  # first: the ledger has them all …
    ledger, lives = LedgerFolder(home.ledger), is_owned(home.rounds)
    history = ledger.settled() if lives else ledger.read()
    verified = verify_history(history, public)
    if lives:
        sealed = [number for number in sealed if number < len(history.entries)]  # … or is about to
    sealed = [number for number in sealed if _check_sealed(home, number, history)]
    signed = [folder for folder in releases if (folder / RELEASE).exists()]
    unsigned = [folder for folder in releases if folder not in signed and folder.exists()]
    tree = Tree(one.entry.leaf for one in history.entries)
    signed = [folder for folder in signed if _check_release(folder, public, tree)]
    told: dict[str, Any] = {"kind": "history", **verified.facts(), "sealed": len(sealed)}
    told["releases"] = [folder.name for folder in signed]
    told["unsigned_releases"] = [folder.name for folder in unsigned]
    said = (
        f"history holds: {verified.rounds} rounds of {verified.federation}, "
        f"{verified.contributions} contributions, {verified.cosignatures} cosignatures, "
        f"{len(signed)} releases"
    )
    for at, to, why in verified.rollbacks:
        said += f"; round {at} went back to round {to}: {why}"
    if replayed:
        entries = {number: one.entry for number, one in enumerate(history.entries)}
        rounds = replay(home, entries)
        told["replayed"] = [one.round for one in rounds if not (one.sealed or one.rollback)]
        told["not_replayed"] = [one.round for one in rounds if one.sealed]
        said += f"; {len(told['replayed'])} rounds replayed to the same bits"
        first = min((one.round for one in rounds), default=verified.rounds + 1)
        told["not_here"] = first - 1
        if first > 1:
            said += f"; rounds 1 to {first - 1} are not here any more to be replayed"
        if masked := len(told["not_replayed"]):
            said += f"; {masked} cannot be: of masked deltas only the sum is known"
    if influence:
        counted = (one.entry for one in history.entries)
        rollbacks = {at: to for at, to, _ in verified.rollbacks}
        told["influence"] = influence_of(counted, verified.rounds, rollbacks)
    return {**told, "said": said}


def _check_federation(home: AggregatorHome, pem: bytes, public: str) -> None:
    """Raise RosterError unless the roster log begins with the federation that a ca.pem makes.

    A file with a key alone names no federation.
    """
    ledger = LedgerFolder(home.ledger)
    logs, first = ledger.rosters(), ledger.entry(0)
    if BEGIN not in pem or first is None or not logs or not logs[-1]:
        return
    pin = spki_pin(parse_certificate(pem, "the key"))
    wanted = federation_digest(home.front().name, pin, public, first.entry.record.vector_digest)
    if logs[-1][0].record.previous != wanted:
        raise RosterError("the roster log is of another federation than its ca.pem", REMEDY)


def _check_sealed(home: AggregatorHome, number: int, history: History) -> bool:
    """A round whose checkpoint lies there is what the ledger has of it, to the byte.

    False where it has been removed meanwhile.
    """
    if number >= len(history.entries):
        raise LedgerError(
            f"round {number} is sealed and not in the ledger",
            "ask for rounds and ledger of one time",
        )
    try:
        read_checkpoint(home.round_folder(number))
        entry = entry_of(home.manifest(number))
    except GobelinError:
        if home.round_folder(number).exists():
            raise
        return False
    if entry != history.entries[number].entry:
        raise LedgerError(
            f"round {number} is sealed with other bytes than the ledger has",
            "keep both as evidence",
        )
    return True


def _check_release(folder: Path, public: str, tree: Tree) -> bool:
    """A release is whole, and of this ledger; False where it has been removed meanwhile."""
    try:
        head = verify_release(folder, public).head.head
    except (GobelinError, FileNotFoundError):
        if folder.exists():
            raise
        return False
    if head.size > len(tree) or head.root != tree.root(head.size):
        raise TwoHistoriesError(
            f"two histories: {folder} was released with a head that this ledger has not",
            "keep both as evidence",
        )
    return True


def _releases(home: AggregatorHome) -> list[Path]:
    return sorted(home.releases.glob("release-*")) if home.releases.exists() else []


def _release(path: Path, public: str, memory: Path | None) -> dict[str, Any]:
    release = verify_release(path, public)
    if memory is not None:
        Watch(memory).take(release.statement)
    return {"kind": "release", "said": release.said, **release.facts()}


def _key(path: Path, key: Path | None) -> tuple[bytes, str, bool]:
    """The aggregator's ca.pem, its key, and whether they came from elsewhere than `path`."""
    folder = path if path.is_dir() else path.parent
    places = [key] if key is not None else [folder / name for name in KEYS]
    for place in places:
        try:
            pem = place.read_bytes()
        except OSError:
            continue
        return pem, find_signing_key(pem, str(place)), key is not None
    raise StateError(f"no ca.pem for {path}", "name the one you were given: --key ca.pem")

"""The round ledger: an append-only Merkle log of sealed rounds that anybody can check offline."""

from gobelin.shared.ledger.folder import LedgerFolder
from gobelin.shared.ledger.history import (
    PURPOSE,
    History,
    SignedEntry,
    Verified,
    verify_history,
)
from gobelin.shared.ledger.influence import influence_of
from gobelin.shared.ledger.merkle import Tree, join, leaf_hash, split
from gobelin.shared.ledger.note import (
    Line,
    SignedHead,
    TreeHead,
    cosign,
    cosigned_by,
    origin_of,
    sign_head,
)
from gobelin.shared.ledger.record import Entry, check_proof, digest_of, entry_of

__all__ = [
    "PURPOSE",
    "Entry",
    "History",
    "LedgerFolder",
    "Line",
    "SignedEntry",
    "SignedHead",
    "Tree",
    "TreeHead",
    "Verified",
    "check_proof",
    "cosign",
    "cosigned_by",
    "digest_of",
    "entry_of",
    "influence_of",
    "join",
    "leaf_hash",
    "origin_of",
    "sign_head",
    "split",
    "verify_history",
]

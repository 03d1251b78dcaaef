"""A round's record and its rows, from what its checkpoint's manifest says and from nothing else.

So the leaf of a sealed round is a function of its folder: it can be made again by whoever has it,
at any time, also for rounds that were sealed before there was a ledger.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.ledger import ContributionRecord, Proof, RoundRecord
from gobelin.protocols.messages import MalformedMessageError
from gobelin.shared.errors import LedgerError
from gobelin.shared.ledger.merkle import (
    REMEDY,
    Tree,
    join,
    leaf_hash,
    split,
    verify_inclusion,
)

ABSENT = "absent"  # reason: had a seat, and nothing had arrived when the round was sealed
SETTINGS = ("aggregation", "outer", "policy")  # facts that say how contributions became one


@dataclass(frozen=True)
class Entry:
    """A round as the ledger has it: its record, and a row for every answer it had a seat for."""

    record: RoundRecord
    rows: tuple[ContributionRecord, ...]

    @functools.cached_property
    def canonical(self) -> bytes:
        """The leaf's bytes."""
        return self.record.to_bytes()

    @property
    def leaf(self) -> bytes:
        """Its hash in the ledger."""
        return leaf_hash(self.canonical)

    @functools.cached_property
    def tree(self) -> Tree:
        """Of the rows."""
        return _tree(self.rows)

    def require_whole(self) -> None:
        """Raise LedgerError unless the rows are those that the record binds."""
        number = self.record.round
        whole = len(self.rows) == self.record.contributions
        if not whole or self.tree.root().hex() != self.record.contributions_root:
            raise LedgerError(f"round {number}: its contributions are not those recorded", REMEDY)
        if any(row.round != number for row in self.rows):
            raise LedgerError(f"round {number} has a contribution of another round", REMEDY)

    def find(self, node: str, asked: int) -> int | None:
        """Index of the row of a node's counted answer to a round's plan."""
        for index, row in enumerate(self.rows):
            if (row.id, row.asked, row.counted) == (node, asked, True):
                return index
        return None

    def proof(self, ledger: Tree, size: int, row: int | None = None) -> Proof:
        """That this entry, and of it a row, is among the first `size` leaves of a ledger."""
        path = ledger.inclusion(self.record.round, size)
        text = self.canonical.decode()
        if row is None:
            return Proof(text, join(path), "", 0, "")
        told, inner = self.rows[row].to_bytes().decode(), self.tree.inclusion(row)
        return Proof(text, join(path), told, row, join(inner))


def check_proof(
    proof: Proof, size: int, root: bytes
) -> tuple[RoundRecord, ContributionRecord | None]:
    """What a proof proves of the ledger with this root; raises LedgerError when it does not."""
    try:
        record = RoundRecord.from_bytes(proof.record.encode())
        row = ContributionRecord.from_bytes(proof.row.encode()) if proof.row else None
    except MalformedMessageError as error:
        raise LedgerError(f"a proof of no record: {error}", REMEDY) from None
    leaf = leaf_hash(proof.record.encode())
    verify_inclusion(leaf, record.round, size, split(proof.path), root)
    if row is not None:
        inner, rows = leaf_hash(proof.row.encode()), record.contributions
        top = split(record.contributions_root)
        if len(top) != 1 or row.round != record.round:
            raise LedgerError("a proof of a row of another round", REMEDY)
        verify_inclusion(inner, proof.row_index, rows, split(proof.row_path), top[0])
    return record, row


def entry_of(manifest: Mapping[str, Any]) -> Entry:
    """The entry of a sealed round, from its checkpoint's manifest."""
    facts = manifest["facts"]
    rows = tuple(_rows(facts))
    record = RoundRecord(
        federation=_ascii(facts.get("federation", "")),
        round=facts["round"],
        plan_digest=facts.get("plan_digest", ""),
        base_digest=facts.get("base_digest", ""),
        vector_digest=manifest["vector_digest"],
        aggregate_digest=facts.get("aggregate_digest", ""),
        roster_digest=facts.get("roster_digest", ""),
        settings_digest=digest_of({name: facts[name] for name in SETTINGS if name in facts}),
        manifest_digest=manifest["manifest_digest"],
        contributions=len(rows),
        contributions_root=_tree(rows).root().hex(),
        restores=facts.get("rollback", {}).get("to", 0),
        why=facts.get("rollback", {}).get("why", ""),
    )
    return Entry(record, rows)


def _rows(facts: Mapping[str, Any]) -> list[ContributionRecord]:
    """Counted answers in their order, then refused ones, then the seats of who sent nothing."""
    number, members = facts["round"], facts.get("members", {})
    rows = []
    for row in facts.get("contributions", ()):
        of = members.get(row["member"], {})
        told = {
            "delta_digest": row["delta_digest"],
            "moments_digest": row.get("moments_digest", ""),
            "weight": float(row["weight"]),
            "influence": float(of.get("influence", 0.0)),
            "reduced": ",".join(map(str, of.get("reduced", ()))),
        }
        rows.append(_row(number, row, True, "", **told))
    for row in facts.get("refused", ()):
        rows.append(_row(number, row, False, str(row["reason"])))
    told_of = {row.id for row in rows if row.asked == number}
    away = (row for row in facts.get("absent", ()) if row["id"] not in told_of)
    return rows + [_row(number, row, False, ABSENT) for row in away]


def _row(
    number: int, row: Mapping[str, Any], counted: bool, reason: str, **told: Any
) -> ContributionRecord:
    plain = {"delta_digest": "", "moments_digest": "", "weight": 0.0, "influence": 0.0}
    return ContributionRecord(
        round=number,
        asked=number - row.get("staleness", 0),
        member=_ascii(row["member"]),
        node=_ascii(row["node"]),
        id=row["id"],
        counted=counted,
        reason=reason,
        **{**plain, "reduced": "", **told},
    )


def _tree(rows: Sequence[ContributionRecord]) -> Tree:
    return Tree(leaf_hash(row.to_bytes()) for row in rows)


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `value`; of nothing at all "" ."""
    if not value:
        return ""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _ascii(name: str) -> str:
    """A name as messages carry it: no name has a backslash of its own."""
    return name.encode("ascii", "backslashreplace").decode()

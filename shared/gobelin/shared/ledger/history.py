"""The whole ledger checked: every record, every row, every head and every cosignature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.ledger import RoundRecord
from gobelin.shared.errors import LedgerError, SignatureError, TwoHistoriesError
from gobelin.shared.ledger.merkle import REMEDY, Tree
from gobelin.shared.ledger.note import SignedHead, cosigned_by, origin_of
from gobelin.shared.ledger.record import Entry
from gobelin.shared.ledger.rosters import Rosters
from gobelin.shared.roster_log import Signed
from gobelin.shared.signing import verify

PURPOSE = "round record"  # of the aggregator's signature over a record
SLACK = 1e-9  # of weights, which are fractions told as fp64


@dataclass(frozen=True)
class SignedEntry:
    """An entry with the aggregator's signature over its record."""

    entry: Entry
    signature: str


@dataclass(frozen=True)
class History:
    """A ledger as it lies in a folder, nothing believed yet."""

    entries: Sequence[SignedEntry]  # in the order of rounds
    heads: Mapping[int, SignedHead]  # by size
    rosters: Sequence[Sequence[Signed]] = ()  # roster logs, the oldest first


@dataclass(frozen=True)
class Verified:
    """What a ledger that holds says of itself."""

    federation: str
    rounds: int  # sealed, the founding model not counted
    head: SignedHead  # the newest
    contributions: int  # counted
    cosignatures: int
    witnesses: tuple[str, ...]  # names of the nodes that have cosigned its newest cosigned head
    witnessed: int  # size of that head; 0 when none is
    rollbacks: tuple[tuple[int, int, str], ...] = ()  # the round, which it went back to, and why

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "federation": self.federation,
            "rounds": self.rounds,
            "size": self.head.head.size,
            "root": self.head.head.root.hex(),
            "contributions": self.contributions,
            "cosignatures": self.cosignatures,
            "witnesses": list(self.witnesses),
            "witnessed_size": self.witnessed,
            "rollbacks": [{"round": at, "to": to, "why": why} for at, to, why in self.rollbacks],
        }


def verify_history(history: History, public: str) -> Verified:
    """Check a whole ledger against the aggregator's public signing key.

    Raises LedgerError or SignatureError naming the first round that does not hold, RosterError on
    a roster log that does not, and TwoHistoriesError where a signed head is of other records.
    """
    if not history.entries:
        raise LedgerError("a ledger without a round", REMEDY)
    federation = _federation(history.entries)
    tree = Tree()
    seen: dict[tuple[str, int], int] = {}
    for number, signed in enumerate(history.entries):
        _check_entry(number, signed, history, public)
        _check_once(signed.entry, seen)
        tree.append(signed.entry.leaf)
    rosters = _check_rosters(history, public)
    witnesses: dict[int, tuple[str, ...]] = {}
    for size in range(1, len(tree) + 1):
        head = history.heads.get(size)
        if head is None:
            raise LedgerError(f"round {size - 1} has no head", REMEDY)
        _check_head(head, size, tree.root(size), federation, public)
        witnesses[size] = _check_cosignatures(head, rosters.keys)
    if surplus := set(history.heads) - set(witnesses):
        raise TwoHistoriesError(
            f"two histories: a signed head of {max(surplus)} rounds, records of {len(tree)}", REMEDY
        )
    witnessed = max((size for size, names in witnesses.items() if names), default=0)
    return Verified(
        federation=federation,
        rounds=len(tree) - 1,
        head=history.heads[len(tree)],
        contributions=len(seen),
        cosignatures=sum(map(len, witnesses.values())),
        witnesses=witnesses.get(witnessed, ()),
        witnessed=witnessed,
        rollbacks=tuple(
            (record.round, record.restores, record.why)
            for record in (signed.entry.record for signed in history.entries)
            if record.why
        ),
    )


def _federation(entries: Sequence[SignedEntry]) -> str:
    names = {signed.entry.record.federation for signed in entries} - {""}
    if len(names) > 1:
        raise LedgerError(f"a ledger of several federations: {', '.join(sorted(names))}", REMEDY)
    return names.pop() if names else ""


def _check_entry(number: int, signed: SignedEntry, history: History, public: str) -> None:
    """One round: its place, its signature, its rows and its base."""
    entry, record = signed.entry, signed.entry.record
    if record.round != number:
        raise LedgerError(f"round {record.round} stands where round {number} should", REMEDY)
    try:
        verify(public, PURPOSE, entry.canonical, signed.signature)
    except SignatureError as error:
        raise SignatureError(f"round {number}: {error.what}", error.remedy) from None
    if bytes.fromhex(signed.signature).hex() != signed.signature:  # `verify` reads hex kindly
        raise SignatureError(f"the signature of round {number} is not as it was written", REMEDY)
    entry.require_whole()
    if number and record.base_digest != history.entries[number - 1].entry.record.vector_digest:
        raise LedgerError(
            f"round {number} does not start from what round {number - 1} left", REMEDY
        )
    _check_rollback(record, history)
    for row in entry.rows:
        _check_row(row.counted, row.reason, row.weight, number)
    if sum(row.weight for row in entry.rows) > 1 + SLACK:
        raise LedgerError(f"the weights of round {number} are more than one", REMEDY)


def _check_rollback(record: RoundRecord, history: History) -> None:
    """A rollback leaves what an earlier round has left, and nothing else."""
    number, to = record.round, record.restores
    if not record.why:
        if to:
            raise LedgerError(f"round {number} goes back to round {to} and says no reason", REMEDY)
        return
    if to >= number or record.plan_digest or record.aggregate_digest or record.contributions:
        raise LedgerError(f"round {number} is no rollback to round {to}", REMEDY)
    if record.vector_digest != history.entries[to].entry.record.vector_digest:
        raise LedgerError(f"round {number} does not leave what round {to} has left", REMEDY)


def _check_rosters(history: History, public: str) -> Rosters:
    """Every counted answer is of a node that was on the roster, which never goes back."""
    rosters, place = Rosters(history.rosters, public), None
    for signed in history.entries:
        place = rosters.check(signed.entry, place)
    return rosters


def _check_row(counted: bool, reason: str, weight: float, number: int) -> None:
    if counted == bool(reason) or weight < 0 or (weight > 0 and not counted):
        raise LedgerError(f"round {number} weighs what it has not counted", REMEDY)


def _check_once(entry: Entry, seen: dict[tuple[str, int], int]) -> None:
    for row in entry.rows:
        if not row.counted:
            continue
        before = seen.setdefault((row.id, row.asked), row.round)
        if before != row.round:
            raise LedgerError(f"rounds {before} and {row.round} count {row.node} twice", REMEDY)


def _check_head(head: SignedHead, size: int, root: bytes, federation: str, public: str) -> None:
    head.signed_by(public)
    found = head.head
    if found.size != size or found.origin != origin_of(federation):
        raise LedgerError(f"the head of {size} rounds is another's", REMEDY)
    if found.root != root:
        raise TwoHistoriesError(
            f"two histories: the signed head of {size} rounds is not that of these records", REMEDY
        )


def _check_cosignatures(head: SignedHead, named: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Names of the nodes that have cosigned; raises SignatureError on a line that is nobody's."""
    for line in head.lines[1:]:
        keys = named.get(line.name, set())
        if not any(cosigned_by(line, key, head.head) for key in keys):
            raise SignatureError(
                f"the head of {head.head.size} rounds has a cosignature by {line.name!r} that is "
                "none",
                REMEDY,
            )
    return tuple(line.name for line in head.lines[1:])

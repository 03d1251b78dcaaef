"""The aggregator's round ledger: a leaf a sealed round, its signed head, nodes' cosignatures.

A round is sealed when its checkpoint folder exists, and leaf and head are functions of that folder
and of the signing key. So nothing has to be written together: what a kill left out the next start
writes, with the same bits, and never twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gobelin.protocols.ledger import (
    Consistency,
    Cosignature,
    Head,
    LedgerView,
    Proof,
)
from gobelin.protocols.messages import MalformedMessageError, Receipt
from gobelin.server.home import AggregatorHome
from gobelin.server.roster import NodeEntry
from gobelin.shared.errors import LedgerError, TwoHistoriesError
from gobelin.shared.ledger import (
    PURPOSE,
    Entry,
    LedgerFolder,
    Line,
    SignedEntry,
    SignedHead,
    Tree,
    TreeHead,
    cosigned_by,
    entry_of,
    join,
    origin_of,
    sign_head,
)
from gobelin.shared.ledger.note import COSIGNATURE, key_id

MOST_PROOFS = 256  # of consistency in one view; a node away for longer verifies an export
MOST_WITNESSES = 1000  # of one head: more prove no more, and its note stays small
RECENT = 16  # entries kept in memory: receipts are of the last rounds
RESTORE = "restore the whole home from one backup; members hold the signed heads"


class RoundLedger:
    """The ledger of one home, in memory as a tree of hashes and on disk in `home.ledger`."""

    def __init__(
        self, home: AggregatorHome, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        """`tell` takes an event for the log, with its facts."""
        self._home = home
        self._tell = tell
        self._folder = LedgerFolder(home.ledger)
        self._key = home.signing_key()
        self._federation = home.settings().name
        self._origin = origin_of(self._federation)
        self._tree = Tree()
        self._newest: SignedHead | None = None
        self._cosigned: dict[str, int] = {}  # node's name → the largest head it has cosigned
        self._seats: dict[str, NodeEntry] = {}  # of nodes, by id
        self._shown = (0, 0)  # size, and size known, of …
        self._view: LedgerView  # … what was last shown
        self._recent: dict[int, Entry] = {}
        self.rollbacks: dict[int, int] = {}  # rounds that are, and what each went back to

    def __len__(self) -> int:
        return len(self._tree)

    def root(self, size: int) -> bytes:
        """Of the first `size` rounds."""
        return self._tree.root(size)

    def mend(self) -> None:
        """Write whatever of the sealed rounds the ledger lacks.

        Raises TwoHistoriesError where it has something else, LedgerError where it cannot be made.
        """
        sealed = self._home.sealed_rounds()
        last = sealed[-1]
        if (ahead := max(self._folder.numbers(), default=-1)) > last:
            raise TwoHistoriesError(
                f"two histories: the ledger has round {ahead}, the last sealed here is {last}",
                RESTORE,
            )
        self._tree, self._newest, self._shown, self._recent = Tree(), None, (0, 0), {}
        made = self._derive(last)
        for number in range(last + 1):
            signed = self._folder.entry(number)
            if signed is None:
                if number not in sealed:
                    raise LedgerError(
                        f"round {number} is neither sealed nor in the ledger", RESTORE
                    )
                signed = made if number == last else self._derive(number)
                self._folder.put_entry(signed)
            self._grow(signed)
        if signed != made:
            raise TwoHistoriesError(
                f"two histories: round {last} is sealed with other bytes than the ledger has, "
                "or signed by another key",
                RESTORE,
            )

    def append(self, number: int) -> None:
        """The leaf and the head of the round that has just been sealed."""
        signed = self._derive(number)
        self._folder.put_entry(signed)
        self._grow(signed)

    def entry(self, number: int) -> Entry:
        """A sealed round's entry; raises LedgerError when its file is gone."""
        if number not in self._recent:
            signed = self._folder.entry(number)
            if signed is None:
                raise LedgerError(f"round {number} is not in the ledger any more", RESTORE)
            return signed.entry
        return self._recent[number]

    def prove(self, number: int, row: int | None = None) -> Proof:
        """That a round, and of it a row, is in the newest head's tree."""
        return self.entry(number).proof(self._tree, len(self._tree), row)

    @property
    def head(self) -> SignedHead:
        """The newest head with all its signatures."""
        if self._newest is None:
            raise ValueError("a ledger is mended before it is asked")
        return self._newest

    def show(self, node: str, receipts: Iterable[Receipt]) -> LedgerView:
        """What a node is shown: the head, that it goes on from those it may know, its receipts."""
        seat = self._seat(node)
        known = self._cosigned.get(seat.name, 1) if seat else 1
        if self._shown != (len(self._tree), known):
            self._shown, self._view = (len(self._tree), known), self._show(known)
        proofs = tuple(filter(None, (self._prove_receipt(node, of) for of in receipts)))
        return replace(self._view, proofs=proofs)

    def _show(self, known: int) -> LedgerView:
        """What all nodes that may know no more than a head of `known` rounds are shown."""
        size, head = len(self._tree), self.head
        sizes = {known, *range(max(known, size - MOST_PROOFS), size)} - {size}
        return LedgerView(
            head=Head(
                federation=self._federation,
                size=size,
                root=head.head.root.hex(),
                signature=head.lines[0].signature.hex(),
            ),
            base=self.prove(size - 1),
            consistency=tuple(
                Consistency(old, join(self._tree.consistency(old))) for old in sorted(sizes)
            ),
        )

    def _prove_receipt(self, node: str, receipt: Receipt) -> Proof | None:
        """The proof of a counted contribution: the round it answers has counted it, or a later."""
        if not receipt.counted:
            return None
        for number in range(receipt.round, len(self._tree)):
            row = self.entry(number).find(node, receipt.round)
            if row is not None:
                return self.prove(number, row)
        return None

    def take(self, node: str, data: bytes) -> None:
        """Keep a node's cosignature of a head; one that is none is told, and kept nowhere."""
        entry = self._seat(node)
        if entry is None:
            return
        try:
            self._keep(entry, Cosignature.from_bytes(data))
        except (LedgerError, MalformedMessageError, ValueError, OverflowError) as error:
            self._tell("cosignature_refused", {"node": entry.name, "found": str(error)})

    def _seat(self, node: str) -> NodeEntry | None:
        """A node's place on the roster, now or before."""
        if node not in self._seats:
            self._seats = {**self._seats, **self._home.roster().by_id()}
        return self._seats.get(node)

    def _keep(self, entry: NodeEntry, given: Cosignature) -> None:
        if not 0 < given.size <= len(self._tree):
            raise LedgerError(f"a cosignature of {given.size} rounds, of {len(self._tree)}")
        head = TreeHead(self._origin, given.size, self._tree.root(given.size))
        stamp = given.time.to_bytes(8, "big")
        name = key_id(entry.name, COSIGNATURE, entry.signing_key)
        line = Line(entry.name, name, stamp + bytes.fromhex(given.signature))
        if not cosigned_by(line, entry.signing_key, head):
            raise LedgerError(f"no cosignature of the head of {given.size} rounds")
        signed = self._folder.head(given.size) or sign_head(self._key, head)
        if len(signed.lines) <= MOST_WITNESSES and (more := signed.with_lines([line])) != signed:
            self._folder.put_head(more)
            if given.size == len(self._tree):
                self._newest = more
        self._cosigned[entry.name] = max(given.size, self._cosigned.get(entry.name, 1))

    def _grow(self, signed: SignedEntry) -> None:
        """Behind the last leaf, with its head."""
        self._tree.append(signed.entry.leaf)
        size = len(self._tree)
        self._recent[size - 1] = signed.entry
        self._recent.pop(size - 1 - RECENT, None)
        if (record := signed.entry.record).why:
            self.rollbacks[record.round] = record.restores
        head = TreeHead(self._origin, size, self._tree.root())
        have = self._folder.head(size)
        if have is None:
            have = sign_head(self._key, head)
            self._folder.put_head(have)
        elif have.head != head:
            raise TwoHistoriesError(
                f"two histories: the head of {size} rounds is signed for other records", RESTORE
            )
        self._newest = have
        for line in self._newest.lines[1:]:
            self._cosigned[line.name] = max(size, self._cosigned.get(line.name, 1))

    def _derive(self, number: int) -> SignedEntry:
        entry = entry_of(self._home.manifest(number))
        return SignedEntry(entry, self._key.sign(PURPOSE, entry.record.to_bytes()))

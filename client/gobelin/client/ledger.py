"""The node's side of the round ledger: it believes no head, base or receipt that is not proved.

Heads that hold are kept, cosigned; a head that is no continuation of the newest known is kept
beside them, for it and the known one together prove what the aggregator did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gobelin.client.home import NodeHome
from gobelin.client.plan import rollbacks_of_plan
from gobelin.protocols.ledger import Cosignature, Head, LedgerView, Proof, RoundRecord
from gobelin.protocols.messages import Receipt, RoundPlan
from gobelin.shared.errors import (
    OTHER_VERSION,
    EnvelopeReplayedError,
    LedgerError,
    SignatureError,
    TwoHistoriesError,
)
from gobelin.shared.files import numbered, write_atomic, write_json
from gobelin.shared.keys import fingerprint, load_private_key, public_pem
from gobelin.shared.ledger import (
    History,
    Line,
    SignedHead,
    Tree,
    TreeHead,
    Verified,
    check_proof,
    cosign,
    origin_of,
    split,
    verify_history,
)
from gobelin.shared.ledger.merkle import verify_consistency
from gobelin.shared.ledger.note import SIGNATURE, key_id
from gobelin.shared.signing import SigningKey

HEARD = "head_issued"  # remembered in the home: when the newest head was sent
EVIDENCE = "stop, and show the other members both notes in"


class NodeLedger:
    """What one node knows of its federation's ledger."""

    def __init__(self, home: NodeHome, now: Callable[[], float] = time.time) -> None:
        self._home = home
        self._now = now
        self._aggregator = home.aggregator_key()
        self._id = fingerprint(public_pem(load_private_key(home.key_file).public_key()))

    def newest(self) -> SignedHead | None:
        """The newest head that this node has believed, with its own cosignature."""
        sizes = numbered(self._home.heads, "", ".note")
        return SignedHead.parse(self._note(sizes[-1]).read_bytes()) if sizes else None

    def hear(
        self,
        federation: str,
        view: LedgerView,
        receipts: Iterable[Receipt],
        plan: RoundPlan | None,
        issued: int,
    ) -> RoundRecord | None:
        """Believe a head, what it says of the plan's base, and receipts; or raise.

        `issued` is when the envelope says that all this was sent. SignatureError: not by the
        aggregator of the pinned ca.pem. LedgerError: something is not proved. TwoHistoriesError:
        the head is no continuation of the newest one known. EnvelopeReplayedError: it is an earlier
        one, and was sent before that, so it came late or again.

        Returns the record of the round that left the plan's base.
        """
        head = self._head(federation, view.head)
        self._refuse_late(head, issued)
        self._continue(head, view)
        base = None if plan is None else self._check_base(head, view.base, plan)
        proved = self._check_receipts(head, view, receipts)
        if issued > int(self._home.pinned(HEARD) or 0):
            self._home.remember(HEARD, issued)
        self._keep(head)
        for receipt, proof in proved:
            self._keep_receipt(receipt, proof, head)
        return base

    def accept(self, history: History) -> Verified:
        """Believe a whole verified ledger: its newest head becomes the newest known.

        Raises as `verify_history` does, and TwoHistoriesError where it is no continuation.
        """
        told = verify_history(history, self._aggregator)
        tree = Tree(signed.entry.leaf for signed in history.entries)
        newest = self.newest()
        if newest is not None:
            known = newest.head
            if known.size > len(tree) or tree.root(known.size) != known.root:
                self._accuse(told.head, f"it is not the ledger this node knows {known.size} of")
        self._keep(SignedHead(told.head.head, told.head.lines[:1]))
        return told

    def cosignature(self) -> bytes:
        """This node's cosignature of the newest head it believes, as it is sent; b"" if none."""
        newest = self.newest()
        if newest is None:
            return b""
        line, head = newest.lines[1], newest.head
        federation = head.origin.removeprefix(origin_of(""))
        signature = line.signature[8:].hex()
        made = Cosignature(federation, head.size, head.root.hex(), line.time, signature)
        return made.to_bytes()

    def _head(self, federation: str, told: Head) -> SignedHead:
        origin = origin_of(federation)
        if told.federation != federation or len(roots := split(told.root)) != 1:
            raise LedgerError("a head of another federation's ledger")
        line = Line(origin, key_id(origin, SIGNATURE, self._aggregator), _bytes(told.signature))
        signed = SignedHead(TreeHead(origin, told.size, roots[0]), (line,))
        signed.signed_by(self._aggregator)
        return signed

    def _refuse_late(self, head: SignedHead, issued: int) -> None:
        """Raise EnvelopeReplayedError on what was sent before the newest head was heard.

        It denies nothing, unless it is another head of a size that this node knows.
        """
        newest, told = self.newest(), head.head
        if newest is None or told.size >= newest.head.size:
            return
        if issued >= int(self._home.pinned(HEARD) or 0):
            return
        note = self._note(told.size)
        if note.exists() and SignedHead.parse(note.read_bytes()).head != told:
            return
        raise EnvelopeReplayedError(
            f"an offer from before: its ledger has {told.size} rounds, this node knows "
            f"{newest.head.size}",
            "it came late, or somebody sends old offers again; nothing was trained for it",
        )

    def _continue(self, head: SignedHead, view: LedgerView) -> None:
        """Raise TwoHistoriesError unless the head goes on from the newest one known."""
        newest = self.newest()
        if newest is None:
            return
        known, told = newest.head, head.head
        if told.size < known.size:
            self._accuse(head, f"it shows {told.size} rounds, this node knows {known.size}")
        if told == known:
            return
        paths = {proof.size: proof.path for proof in view.consistency}
        if told.size > known.size and known.size not in paths:
            raise LedgerError(
                f"the aggregator does not show that its {told.size} rounds go on from the "
                f"{known.size} this node knows",
                f"ask for an export: gobelin node accept EXPORT --home {self._home.folder}",
            )
        try:
            path = split(paths.get(known.size, ""))
            verify_consistency(known.size, told.size, path, known.root, told.root)
        except LedgerError:
            self._accuse(head, f"its {told.size} rounds do not go on from the {known.size} known")

    def _accuse(self, head: SignedHead, what: str) -> None:
        """Keep the head that is no continuation, and raise."""
        name = f"other-{head.head.size:05d}-{head.head.root.hex()[:8]}.note"
        write_atomic(self._home.heads / name, head.text.encode())
        raise TwoHistoriesError(
            f"two histories: a signed head that denies an earlier one: {what}",
            f"{EVIDENCE} {self._home.heads}",
        )

    def _check_base(self, head: SignedHead, proof: Proof, plan: RoundPlan) -> RoundRecord:
        record, _ = check_proof(proof, head.head.size, head.head.root)
        if (record.round, record.vector_digest) != (plan.round - 1, plan.base_digest):
            raise LedgerError(
                f"the plan of round {plan.round} starts from a base that is not the ledger's",
                "ask the aggregator's operator; nothing was trained for it",
            )
        went_back = rollbacks_of_plan(plan).get(record.round)
        if went_back != (record.restores if record.why else None):
            raise LedgerError(
                f"the plan of round {plan.round} tells of another rollback than the ledger",
                "ask the aggregator's operator; nothing was trained for it",
            )
        return record

    def _check_receipts(
        self, head: SignedHead, view: LedgerView, receipts: Iterable[Receipt]
    ) -> list[tuple[Receipt, Proof]]:
        """Every receipt of what has counted, with its proof; raises LedgerError without one."""
        rows = {}
        for proof in view.proofs:
            _, row = check_proof(proof, head.head.size, head.head.root)
            if row is not None and row.id == self._id and row.counted:
                rows[row.asked] = (row, proof)
        proved = []
        for receipt in receipts:
            if not receipt.counted:
                continue
            found = rows.get(receipt.round)
            told = (receipt.delta_digest, receipt.weight)
            if found is None or (found[0].delta_digest, found[0].weight) != told:
                raise LedgerError(
                    f"the receipt of round {receipt.round} is not what the ledger says",
                    "the contribution stays in the spool; ask the aggregator's operator",
                )
            proved.append((receipt, found[1]))
        return proved

    def _note(self, size: int) -> Path:
        return self._home.heads / f"{size:05d}.note"

    def _keep(self, head: SignedHead) -> None:
        path = self._note(head.head.size)
        if not path.exists():
            key = SigningKey.load(self._home.signing_key_file)
            name, at = self._home.settings().node, int(self._now())
            signed = head.with_lines([cosign(key, name, head.head, at)])
            write_atomic(path, signed.text.encode())

    def _keep_receipt(self, receipt: Receipt, proof: Proof, head: SignedHead) -> None:
        path = receipt_file(self._home.receipts, receipt.round)
        if not path.exists():
            told = {"receipt": receipt.plain(), "proof": proof.plain(), "head": head.text}
            write_json(path, told)


def receipt_file(folder: Path, number: int) -> Path:
    """Where the proved receipt of a contribution to a round lies."""
    return folder / f"round-{number:05d}.json"


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise SignatureError("the head's signature is none", OTHER_VERSION) from None

"""What the aggregator remembers of a node from round to round: its base, and its receipts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gobelin.protocols.messages import PENDING, Receipt, RoundPlan
from gobelin.server.round_state import Round

KEEP = 2  # receipts: as many as contributions in a node's spool


@dataclass(frozen=True)
class NodeRecord:
    """One node's; it lies in the manifest of every sealed round."""

    base: int | None = None  # number of the round that sealed the last base it has trained from
    receipts: tuple[Receipt, ...] = ()  # of its last contributions that arrived or may, in order

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> NodeRecord:
        """What `facts` gave."""
        return cls(facts["base"], tuple(Receipt(**row) for row in facts["receipts"]))

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {"base": self.base, "receipts": [asdict(receipt) for receipt in self.receipts]}

    def settle(self, receipt: Receipt) -> NodeRecord:
        """With one more receipt; what has counted was trained from the base before its round."""
        base = self.base
        if receipt.counted:
            base = max(receipt.round - 1, -1 if base is None else base)
        others = [other for other in self.receipts if other.round != receipt.round]
        receipts = sorted([*others, receipt], key=lambda each: each.round)
        arrived = [each for each in receipts if each.reason != PENDING][-KEEP:]
        kept = [each for each in receipts if each.reason == PENDING or each in arrived]
        return NodeRecord(base, tuple(kept))

    def only(self, pending: Container[int]) -> NodeRecord:
        """Without a word on contributions that have not arrived and cannot count any more."""
        kept = [r for r in self.receipts if r.reason != PENDING or r.round in pending]
        return NodeRecord(self.base, tuple(kept))


def settle(
    records: Mapping[str, NodeRecord],
    plan: RoundPlan,
    state: Round,
    rows: Iterable[Mapping[str, Any]],
    pending: Container[int],
) -> dict[str, NodeRecord]:
    """The records by node id after a round; `rows` are the contributions it counted, weighed.

    `pending` are the rounds, this one perhaps among them, that may still be answered.
    """
    name = plan.federation
    settled = dict(records)

    def note(node: str, receipt: Receipt) -> None:
        settled[node] = settled.get(node, NodeRecord()).settle(receipt)

    for node in sorted(state.seats.keys() - state.answered):
        if plan.round in pending:
            note(node, Receipt(name, plan.round, "", False, PENDING, 0.0))
    for asked, reason in sorted(state.refused.items()):
        note(asked.node, Receipt(name, asked.round, "", False, reason, 0.0))
    for row in rows:
        number = plan.round - row["staleness"]
        note(row["id"], Receipt(name, number, row["delta_digest"], True, "", row["weight"]))
    return {node: record.only(pending) for node, record in settled.items()}

"""What the aggregator remembers of a node from round to round: its base, and its receipts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gobelin.protocols.messages import Receipt, RoundPlan
from gobelin.server.round_state import Round

KEEP = 2  # receipts: as many as contributions in a node's spool


@dataclass(frozen=True)
class NodeRecord:
    """One node's; it lies in the manifest of every sealed round."""

    base: int | None = None  # number of the round that sealed the last base it has trained from
    receipts: tuple[Receipt, ...] = ()  # of its last contributions that arrived, oldest first

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
        return NodeRecord(base, tuple(receipts[-KEEP:]))


def settle(
    records: Mapping[str, NodeRecord],
    plan: RoundPlan,
    state: Round,
    rows: Iterable[Mapping[str, Any]],
) -> dict[str, NodeRecord]:
    """The records by node id after a round; `rows` are the contributions it counted, weighed."""
    ids = {seat.name: node for node, seat in state.seats.items()}
    receipts = {
        node: Receipt(plan.federation, plan.round, "", False, reason, 0.0)
        for node, reason in state.refused.items()
    }
    for row in rows:
        receipts[ids[row["node"]]] = Receipt(
            plan.federation, plan.round, row["delta_digest"], True, "", row["weight"]
        )
    settled = {node: records.get(node, NodeRecord()).settle(r) for node, r in receipts.items()}
    return {**records, **settled}

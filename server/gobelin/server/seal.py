"""Sealing: a closed round's deltas become a consensus, a checkpoint and, when due, a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gobelin.protocols.messages import RoundPlan
from gobelin.server.broadcast import STEP, Broadcast, broadcast
from gobelin.server.geometry import Deltas
from gobelin.server.home import AggregatorHome
from gobelin.server.merge import Merged, Merger, accumulate
from gobelin.server.node_record import NodeRecord
from gobelin.server.outer import make_outer
from gobelin.server.rules import make_rule
from gobelin.shared.checkpoint import Checkpoint, write_checkpoint
from gobelin.shared.vector import ParameterVector

Row = Mapping[str, Any]  # what is recorded of one contribution


@dataclass(frozen=True)
class Standing:
    """Where the federation stands between two rounds."""

    base: ParameterVector
    outer: Mapping[str, Tensor] = field(default_factory=dict)  # the outer optimizer's state
    merge: Mapping[str, Tensor] = field(default_factory=dict)  # the aggregation rule's
    influence: Mapping[str, float] = field(default_factory=dict)  # of members, over all rounds
    owed: Tensor | None = None  # (P,) by the broadcast
    records: Mapping[str, NodeRecord] = field(default_factory=dict)  # by node id

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Standing:
        """What a sealed round left."""
        return cls(
            checkpoint.vector,
            checkpoint.extra.get("outer", {}),
            checkpoint.extra.get("merge", {}),
            {k: row["influence_total"] for k, row in checkpoint.facts.get("members", {}).items()},
            checkpoint.extra.get("owed", {}).get("residual"),
            {k: NodeRecord.of(row) for k, row in checkpoint.facts.get("nodes", {}).items()},
        )


@dataclass(frozen=True)
class Outcome:
    """What a closed round's contributions come to, before it is sealed."""

    standing: Standing
    told: Broadcast
    merged: Merged
    rows: Sequence[Row]  # with each contribution's weight


class Sealer:
    """Merges, takes the outer step, and writes what a sealed round is."""

    def __init__(
        self, home: AggregatorHome, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._home = home
        self._tell = tell
        self._settings = settings = home.settings()
        self._recipe = home.recipe()
        outer, rule = settings.outer, settings.aggregation
        self._outer = make_outer(
            outer.kind, outer.lr, outer.momentum, beta2=outer.beta2, tau=outer.tau
        )
        self._merger = Merger(make_rule(rule.rule, rule.trim, rule.radius), settings.policy.cap)

    def aggregate(self, standing: Standing, deltas: Deltas, rows: Sequence[Row]) -> Outcome:
        """The next standing from deltas and their rows, both in the order of the deltas' names."""
        owners = [str(row["member"]) for row in rows]
        merged = self._merger.merge(deltas, owners, standing.merge)
        values, outer = self._outer.step(standing.base.values, merged.delta, standing.outer)
        wanted = ParameterVector(standing.base.schema, values)
        told = broadcast(self._settings.rounds.broadcast, standing.base, wanted, standing.owed)
        influence = accumulate(standing.influence, merged.members)
        weighed = [
            {**row, "weight": float(merged.weights[owner] / owners.count(owner))}
            for row, owner in zip(rows, owners, strict=True)
        ]
        return Outcome(
            Standing(told.consensus, outer, merged.state, influence, told.owed, standing.records),
            told,
            merged,
            sorted(weighed, key=lambda row: str(row["node"])),
        )

    def seal(self, plan: RoundPlan, outcome: Outcome, seconds: float) -> None:
        """Write the round's checkpoint folder, which is the round, and publish it if it is due."""
        standing, merged = outcome.standing, outcome.merged
        facts: dict[str, Any] = {
            "federation": plan.federation,
            "round": plan.round,
            "rounds": plan.rounds,
            "base_digest": plan.base_digest,
            "plan_digest": plan.digest,
            "contributions": list(outcome.rows),
            "members": {
                name: {**merged.members.get(name, {}), "influence_total": total}
                for name, total in standing.influence.items()
            },
            "nodes": {node: record.facts() for node, record in standing.records.items()},
            "outer": self._settings.outer.model_dump(exclude_none=True),
            "aggregation": self._settings.aggregation.model_dump(exclude_none=True),
            **merged.facts,
            **outcome.told.facts,
            "seconds": seconds,
        }
        extra = {"outer": dict(standing.outer)} if standing.outer else {}
        extra |= {"merge": dict(standing.merge)} if standing.merge else {}
        extra |= {"owed": {"residual": standing.owed}} if standing.owed is not None else {}
        extra |= {STEP: outcome.told.payload.tensors()} if outcome.told.payload else {}
        folder = self._home.round_folder(plan.round)
        write_checkpoint(folder, self._recipe, standing.base, facts, extra)
        self.release(plan.round, standing.base, facts)
        self._say(plan, outcome, seconds)

    def release(self, number: int, consensus: ParameterVector, facts: Mapping[str, Any]) -> None:
        """Publish a sealed round if it is due for release and not published yet."""
        rounds = self._settings.rounds
        due = number == rounds.rounds or (number and number % rounds.release_every == 0)
        folder = self._home.releases / f"release-{number:05d}"
        if due and not folder.exists():
            write_checkpoint(folder, self._recipe, consensus, facts)
            self._tell("release", {"round": number, "folder": folder.name})

    def _say(self, plan: RoundPlan, outcome: Outcome, seconds: float) -> None:
        """Tell what was sealed, and warn when members' voices were lost."""
        merged = outcome.merged
        if merged.minority:
            rule = self._settings.aggregation.rule
            lost = {"round": plan.round, "rule": rule, "members": merged.minority}
            self._tell("minority_loss", lost)
        training = max(float(row["seconds"]) for row in outcome.rows)
        sealed = {
            "round": plan.round,
            "vector_digest": outcome.standing.base.digest,
            **merged.facts,
            **outcome.told.facts,
            "influence": {name: row["influence"] for name, row in merged.members.items()},
            "bytes": sum(int(row["bytes"]) for row in outcome.rows),
            "seconds": seconds,
            "overhead_s": max(0.0, seconds - training),  # 0 where a kill has cut the round's time
        }
        self._tell("round_sealed", sealed)

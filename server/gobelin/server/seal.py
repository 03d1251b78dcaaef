"""Sealing: a closed round's deltas become a consensus, a checkpoint and, when due, a release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gobelin.protocols.messages import RoundPlan
from gobelin.server.archive import Archive
from gobelin.server.broadcast import STEP, Broadcast, broadcast_fragment
from gobelin.server.evidence import of_members, remember
from gobelin.server.geometry import Deltas
from gobelin.server.groups import move_groups
from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.journal import Journal
from gobelin.server.ledger import RoundLedger
from gobelin.server.merge import Counted, Merged, Merger, Merges, accumulate
from gobelin.server.node_record import NodeRecord
from gobelin.server.outer import make_outer
from gobelin.server.policy import freshness
from gobelin.server.pooling import of_tensors, tensors_of
from gobelin.server.publisher import Publisher
from gobelin.server.quality import Examiner
from gobelin.server.round_events import Asked
from gobelin.server.round_state import Round
from gobelin.server.rules import make_rule
from gobelin.shared.checkpoint import Checkpoint, at_rest, write_checkpoint
from gobelin.shared.fragments import Fragment
from gobelin.shared.objective.pools import Pools
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector, digest_of_values

CROSS_NODE = "cross_node"  # name of the pooled moments in a checkpoint's extra
Row = Mapping[str, Any]  # what is recorded of one contribution


@dataclass(frozen=True)
class Standing:
    """Where the federation stands between two rounds."""

    base: ParameterVector
    outer: Mapping[str, Tensor] = field(default_factory=dict)  # the outer optimizer's state
    merge: Mapping[str, Tensor] = field(default_factory=dict)  # the aggregation rule's
    influence: Mapping[str, float] = field(default_factory=dict)  # of members, over all rounds
    moments: Pools | None = None  # of the last round's base
    scores: Sequence[float] = ()  # of members, in the last rounds
    owed: Tensor | None = None  # (P,) by the broadcast
    records: Mapping[str, NodeRecord] = field(default_factory=dict)  # by node id

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Standing:
        """What a sealed round left."""
        moments = checkpoint.extra.get(CROSS_NODE)
        members = checkpoint.facts.get("members", {})
        nodes = checkpoint.facts.get("nodes", {})
        return cls(
            base=checkpoint.vector,
            outer=checkpoint.extra.get("outer", {}),
            merge=checkpoint.extra.get("merge", {}),
            influence={name: row["influence_total"] for name, row in members.items()},
            moments=of_tensors(moments, checkpoint.recipe.told_modalities) if moments else None,
            scores=checkpoint.facts.get("scores", ()),
            owed=checkpoint.extra.get("owed", {}).get("residual"),
            records={node: NodeRecord.of(row) for node, row in nodes.items()},
        )


@dataclass(frozen=True)
class Outcome:
    """What a closed round's contributions come to, before it is sealed."""

    standing: Standing
    told: Broadcast
    merged: Merged
    rows: Sequence[Row]  # with each contribution's weight
    facts: Mapping[str, Any]  # of the whole round


class Merging:
    """What the settings make of a round's contributions: policy, rule, outer step and broadcast."""

    def __init__(self, settings: FederationSettings, recipe: Recipe, examiner: Examiner) -> None:
        self._settings = settings
        self._recipe = recipe
        self._examiner = examiner
        outer, rule = settings.outer, settings.aggregation
        self._outer = make_outer(
            outer.kind, outer.lr, outer.momentum, beta2=outer.beta2, tau=outer.tau
        )
        policy = settings.policy
        self._merger = Merger(
            make_rule(rule.rule, rule.trim, rule.radius), policy.cap, policy.weights == "evidence"
        )

    def aggregate(
        self,
        standing: Standing,
        fragment: Fragment,
        deltas: Mapping[str, Deltas],
        rows: Sequence[Row],
        moments: Pools | None = None,
        merger: Merges | None = None,
    ) -> Outcome:
        """The next standing from a fragment's deltas, by group, and their rows, in the same order.

        `moments` are those of the base, pooled; `merger` is another than the settings'.
        """
        decay = self._settings.rounds.staleness_decay
        base, counted = standing.base, [_counted(row, decay) for row in rows]
        moved = move_groups(
            merger or self._merger,
            self._outer,
            fragment,
            self._recipe.told_modalities,
            deltas,
            counted,
            base.values,
            standing.outer,
            standing.merge,
        )
        merged, wanted = moved.merged, ParameterVector(base.schema, moved.values)
        codec = self._settings.rounds.broadcast
        told = broadcast_fragment(codec, fragment, base, wanted, standing.owed)
        weighed = [
            {
                **row,
                "freshness": float(of.freshness),
                "weight": float(merged.weights[of.member] * of.freshness / _voices(counted, of)),
                "step_factor": factor,
            }
            for row, of, factor in zip(rows, counted, merged.step_factors, strict=True)
        ]
        scores = of_members([(row.member, row.score) for row in counted if row.score is not None])
        after = Standing(
            base=told.consensus,
            outer=moved.outer,
            merge=moved.merge,
            influence=accumulate(standing.influence, merged.members),
            moments=moments,
            scores=remember(standing.scores, scores),
            owed=told.owed,
            records=standing.records,
        )
        facts = {
            **merged.facts,
            "aggregate_digest": digest_of_values(merged.delta),
            "fragment": fragment.index,
            "frame_rotation": self._examiner.rotation(base, told.consensus),
        }
        rows = sorted(weighed, key=lambda row: (str(row["node"]), -int(row["staleness"])))
        return Outcome(after, told, merged, rows, facts)

    def stay(self, standing: Standing, fragment: Fragment) -> Outcome:
        """What a sealed round comes to whose sum was none: the base stays, and so does all else.

        It cannot be tried again, for its nodes reveal once; the next round goes on from the base.
        """
        base = standing.base
        told = broadcast_fragment(
            self._settings.rounds.broadcast, fragment, base, base, standing.owed
        )
        after = replace(standing, base=told.consensus, owed=told.owed, moments=None)
        unknown = dict.fromkeys(("clip", "cosine", "sign_all", "sign_most", "retained_norm"))
        facts = {"cap": 1.0, "residual": 1.0, "sealed": True, **unknown}
        merged = Merged(torch.zeros(fragment.schema.size), {}, [], {}, facts, 1.0)
        aggregate = {"aggregate_digest": digest_of_values(merged.delta)}
        told_of = {**facts, **aggregate, "fragment": fragment.index, "frame_rotation": None}
        return Outcome(after, told, merged, [], told_of)


class Sealer:
    """Writes what a sealed round is, and lets it be published."""

    def __init__(
        self,
        home: AggregatorHome,
        examiner: Examiner,
        ledger: RoundLedger,
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._tell = tell
        self._settings = home.settings()
        self._recipe = home.recipe()
        self.publisher = Publisher(home, ledger, tell)
        self.merging = Merging(self._settings, self._recipe, examiner)

    def keep(self, number: int, journal: Journal, asked: Iterable[Asked]) -> None:
        """Archive the contributions of a round that is about to be sealed, if they are wanted."""
        if self._settings.rounds.archive:
            Archive(self._home.archive).keep(number, journal, asked)

    def seal(self, plan: RoundPlan, state: Round, outcome: Outcome, seconds: float) -> Standing:
        """Write the round's checkpoint folder, which is the round, and publish it if it is due.

        Returns the outcome's standing as it lies there, out of memory.
        """
        standing, merged = outcome.standing, outcome.merged
        facts: dict[str, Any] = {
            "federation": plan.federation,
            "round": plan.round,
            "rounds": plan.rounds,
            "base_digest": plan.base_digest,
            "plan_digest": plan.digest,
            "plan": plan.to_bytes().decode(),
            "roster_digest": self._home.roster_head(),
            "contributions": list(outcome.rows),
            **_others(state),
            "members": {
                name: {**merged.members.get(name, {}), "influence_total": total}
                for name, total in standing.influence.items()
            },
            "nodes": {node: record.facts() for node, record in standing.records.items()},
            "outer": self._settings.outer.model_dump(exclude_none=True),
            "aggregation": self._settings.aggregation.model_dump(exclude_none=True),
            "policy": self._settings.policy.model_dump(mode="json", exclude={"probe"}),
            **outcome.facts,
            **outcome.told.facts,
            "scores": list(standing.scores),
            "moments_digest": standing.moments.digest if standing.moments else "",
            "seconds": seconds,
        }
        extra = {"outer": dict(standing.outer)} if standing.outer else {}
        extra |= {"merge": dict(standing.merge)} if standing.merge else {}
        extra |= {CROSS_NODE: tensors_of(standing.moments)} if standing.moments else {}
        extra |= {"owed": {"residual": standing.owed}} if standing.owed is not None else {}
        extra |= {STEP: outcome.told.payload.tensors()} if outcome.told.payload else {}
        folder = self._home.round_folder(plan.round)
        write_checkpoint(folder, self._recipe, standing.base, facts, extra)
        self._ledger.append(plan.round)
        self.publisher.release(plan.round, standing.base, facts)
        self._say(plan, outcome, seconds)
        base, lying = at_rest(folder, standing.base, extra)
        return replace(
            standing,
            base=base,
            outer=lying.get("outer", {}),
            merge=lying.get("merge", {}),
            owed=lying.get("owed", {}).get("residual"),
        )

    def _say(self, plan: RoundPlan, outcome: Outcome, seconds: float) -> None:
        """Tell what was sealed, and warn when members' voices were lost."""
        merged = outcome.merged
        if merged.minority:
            rule = self._settings.aggregation.rule
            lost = {"round": plan.round, "rule": rule, "members": merged.minority}
            self._tell("minority_loss", lost)
        fresh = [float(row["seconds"]) for row in outcome.rows if not row["staleness"]]
        training = max(fresh, default=0.0)  # nobody's where a sealed sum was none
        sealed = {
            "round": plan.round,
            "vector_digest": outcome.standing.base.digest,
            **outcome.facts,
            **outcome.told.facts,
            "reduced": merged.reduced,
            "influence": {name: row["influence"] for name, row in merged.members.items()},
            "bytes": sum(int(row["bytes"]) for row in outcome.rows),
            "moments": sorted({row["member"] for row in outcome.rows if row["moments_digest"]}),
            "seconds": seconds,
            "overhead_s": max(0.0, seconds - training),  # 0 where a kill has cut the round's time
        }
        self._tell("round_sealed", sealed)


def _counted(row: Row, decay: float) -> Counted:
    """A recorded contribution as the merge counts it."""
    return Counted(
        member=str(row["member"]),
        steps=row["local_steps"],
        freshness=freshness(row["staleness"], decay),
        score=row["measured"].get("score"),
        modality=row["modality"],
    )


def _voices(counted: Sequence[Counted], of: Counted) -> Fraction:
    """What a member's contributions share their member's weight by, in sum."""
    return sum((row.freshness for row in counted if row.member == of.member), Fraction(0))


def _others(state: Round) -> dict[str, list[dict[str, Any]]]:
    """Who had a seat and has not contributed, and whose answers were refused."""

    def seat(node: str) -> dict[str, Any]:
        return {"id": node, "member": state.seats[node].member, "node": state.seats[node].name}

    return {
        "absent": [seat(node) for node in sorted(state.seats.keys() - state.answered)],
        "refused": [
            {**seat(asked.node), "staleness": state.number - asked.round, "reason": reason}
            for asked, reason in sorted(state.refused.items())
        ],
    }

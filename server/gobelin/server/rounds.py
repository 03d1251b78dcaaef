"""The rounds: plan → contributions → merge → outer step → sealed checkpoint → release.

State on disk is the only truth: a round exists once its checkpoint folder does, so a killed
aggregator opens the same round again with the same plan, and nodes send what they already have.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.server.admission import Admitted, Refusal, WireArray, admit
from gobelin.server.deltas import RoundDeltas
from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.merge import Counted, Merged, Merger, accumulate
from gobelin.server.outer import make_outer
from gobelin.server.quality import CollapseGate
from gobelin.server.reasons import RefusalCode
from gobelin.server.roster import NodeEntry, Roster
from gobelin.server.rules import make_rule
from gobelin.shared.checkpoint import Checkpoint, write_checkpoint
from gobelin.shared.errors import RoundError
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector

POLL_S = 0.2
NODES_EVERY_S = 1.0  # how often to look who is online
STALE = {"federation", "round", "base_digest", "plan_digest"}  # answers to another plan
FAREWELL_S = 10.0  # for nodes to hear that the federation has finished


@dataclass(frozen=True)
class NodeState:
    """What the engine knows of a node: is it online, and since when this time."""

    id: str  # fingerprint of its key
    online: bool
    activated_at: str


@dataclass(frozen=True)
class Reply:
    """What came back from a node for an offered plan: a contribution, or an error code."""

    node: str
    header: bytes = b""
    arrays: Mapping[str, WireArray] = field(default_factory=dict)
    error: str = ""


class Courier(Protocol):
    """Carries plans to nodes and replies back."""

    def nodes(self) -> list[NodeState]:
        """The nodes the engine knows."""
        ...

    def send(
        self, nodes: Iterable[str], message: RoundPlan | Farewell, base: ParameterVector | None
    ) -> None:
        """Send a message, and the base of a plan, to nodes by id."""
        ...

    def replies(self) -> Iterable[Reply]:
        """Replies that have arrived, pulled one at a time."""
        ...


@dataclass(frozen=True)
class Standing:
    """Where the federation stands between two rounds."""

    base: ParameterVector
    outer: Mapping[str, Tensor] = field(default_factory=dict)  # the outer optimizer's state
    merge: Mapping[str, Tensor] = field(default_factory=dict)  # the aggregation rule's
    influence: Mapping[str, float] = field(default_factory=dict)  # of members, over all rounds

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Standing:
        """What a sealed round left."""
        return cls(
            checkpoint.vector,
            checkpoint.extra.get("outer", {}),
            checkpoint.extra.get("merge", {}),
            {k: row["influence_total"] for k, row in checkpoint.facts.get("members", {}).items()},
        )


@dataclass
class Collection:
    """What one round has gathered so far."""

    deltas: RoundDeltas
    nodes: frozenset[str]  # on the roster when the round opened
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # counted, by node id
    refused: dict[str, Refusal] = field(default_factory=dict)
    offered: dict[str, str] = field(default_factory=dict)  # node id → its activated_at then

    def members(self, roster: Roster) -> set[str]:
        """Members with at least one counted contribution."""
        return {node.member for node in roster.nodes if node.id in self.rows}


class RoundEngine:
    """Runs a federation's rounds from the last sealed one to the last planned one."""

    def __init__(
        self,
        home: AggregatorHome,
        courier: Courier,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._home = home
        self._courier = courier
        self._clock = clock
        self._sleep = sleep
        self._settings: FederationSettings = home.settings()
        self._recipe: Recipe = home.recipe()
        outer, rule = self._settings.outer, self._settings.aggregation
        self._outer = make_outer(
            outer.kind, outer.lr, outer.momentum, beta2=outer.beta2, tau=outer.tau
        )
        self._merger = Merger(
            make_rule(rule.rule, rule.trim, rule.radius), self._settings.policy.cap
        )
        gated = self._settings.policy.collapse_gate
        self._gate = CollapseGate(self._recipe, self._settings.seed) if gated else None
        self._waiting_for = ""

    def run(self) -> None:
        """Run every round that is not sealed yet; raises RoundError when one cannot be."""
        last, checkpoint = self._home.latest()
        standing = Standing.of(checkpoint)
        self._release(last, standing.base, checkpoint.facts)  # a kill may have come between
        for number in range(last + 1, self._settings.rounds.rounds + 1):
            standing = self._round(number, standing)
        rounds, digest = self._settings.rounds.rounds, standing.base.digest
        self._event("finished", round=rounds, vector_digest=digest)
        self._farewell(Farewell(self._settings.name, rounds, digest))

    def _round(self, number: int, standing: Standing) -> Standing:
        base = standing.base
        plan = self._plan(number, base)
        attempts = self._settings.rounds.attempts
        for attempt in range(1, attempts + 1):
            self._wait_for_members()
            opened = self._clock()
            self._event("round_opened", round=number, attempt=attempt, base_digest=base.digest)
            deltas = RoundDeltas(self._home.collecting, base.schema.size)
            try:
                collection = self._collect(plan, base, deltas)
                missing = self._missing(collection)
                if not missing:
                    return self._seal(plan, standing, collection, opened)
            finally:
                deltas.remove()
            self._event("round_void", round=number, attempt=attempt, reason=missing)
        raise RoundError(
            f"round {number} had too few contributions {attempts} times: {missing}",
            "see `gobelin aggregator status`, then run `gobelin aggregator up` again",
        )

    def _farewell(self, farewell: Farewell) -> None:
        """Tell the nodes that are online; those that are not will find the aggregator gone."""
        waiting = set(self._online(self._home.roster()))
        self._courier.send(waiting, farewell, None)
        give_up = self._clock() + FAREWELL_S
        while waiting and self._clock() < give_up:
            waiting -= {reply.node for reply in self._courier.replies()}
            self._sleep(POLL_S)

    def _plan(self, number: int, base: ParameterVector) -> RoundPlan:
        rounds = self._settings.rounds
        return RoundPlan(
            federation=self._settings.name,
            round=number,
            rounds=rounds.rounds,
            recipe=self._recipe.canonical(),
            schema_digest=base.schema.digest,
            base_digest=base.digest,
            local_steps=rounds.local_steps,
            seed=self._settings.seed,
            deadline_s=rounds.deadline_s,
            codec=rounds.codec,
        )

    def _wait_for_members(self) -> None:
        """Wait, for a bounded time, until enough members are online; say whom we wait for."""
        needed = self._settings.rounds.min_members
        give_up = self._clock() + self._settings.rounds.wait_for_members_s
        while True:
            roster = self._home.roster()
            online = {state.id for state in self._courier.nodes() if state.online}
            here = {node.member for node in roster.nodes if node.id in online}
            if len(here) >= needed:
                self._waiting_for = ""
                return
            absent = (
                ", ".join(m for m in roster.members if m not in here) or "members to be admitted"
            )
            self._say_waiting(f"{len(here)} of {needed} members are online; waiting for {absent}")
            if self._clock() >= give_up:
                raise RoundError(
                    f"only {len(here)} of {needed} members came online",
                    f"waited for {absent}; start their nodes or lower rounds.min_members",
                )
            self._sleep(NODES_EVERY_S)

    def _collect(self, plan: RoundPlan, base: ParameterVector, deltas: RoundDeltas) -> Collection:
        """Offer the plan and gather contributions until all are in or the deadline is over."""
        collection = Collection(deltas, frozenset(self._home.roster().by_id()))
        deadline = self._clock() + plan.deadline_s
        look_again = self._clock()
        online: dict[str, NodeState] = {}
        while self._clock() < deadline:
            if self._clock() >= look_again:
                roster = self._home.roster()
                online = self._online(roster)
                self._offer(plan, base, collection, online)
                look_again = self._clock() + NODES_EVERY_S
            for reply in self._courier.replies():
                self._take(plan, base, collection, reply, roster)
            if self._complete(collection, online):
                break
            self._sleep(POLL_S)
        return collection

    def _online(self, roster: Roster) -> dict[str, NodeState]:
        known = roster.by_id()
        return {s.id: s for s in self._courier.nodes() if s.online and s.id in known}

    def _offer(
        self,
        plan: RoundPlan,
        base: ParameterVector,
        collection: Collection,
        online: Mapping[str, NodeState],
    ) -> None:
        """Offer to nodes that lack the plan: new ones, and ones that restarted since the offer."""
        lacking = [
            node
            for node, state in online.items()
            if node not in collection.rows
            and node in collection.nodes
            and collection.offered.get(node) != state.activated_at
        ]
        if lacking:
            self._courier.send(lacking, plan, base)
            collection.offered |= {node: online[node].activated_at for node in lacking}
            for node in lacking:
                collection.refused.pop(node, None)

    def _take(
        self,
        plan: RoundPlan,
        base: ParameterVector,
        collection: Collection,
        reply: Reply,
        roster: Roster,
    ) -> None:
        """Admit and add one reply, or record why not."""
        entry = roster.by_id().get(reply.node)
        if entry is None or reply.node not in collection.nodes:
            self._event("refused", round=plan.round, node=reply.node[:12], reason="not_on_roster")
            return
        outcome = self._judge(plan, base, collection, reply)
        if isinstance(outcome, Refusal):
            if reply.node not in collection.rows and outcome.reason not in STALE:
                collection.refused[reply.node] = outcome
            self._event("refused", round=plan.round, node=entry.name, **vars(outcome))
            return
        collection.deltas.add(reply.node, outcome.delta)
        row = self._row(entry, outcome)
        collection.rows[reply.node] = row
        self._event("contribution", round=plan.round, **row)

    def _judge(
        self, plan: RoundPlan, base: ParameterVector, collection: Collection, reply: Reply
    ) -> Admitted | Refusal:
        if reply.error:
            return Refusal(RefusalCode.NODE_ERROR, reply.error)
        if reply.node in collection.rows:
            return Refusal(RefusalCode.DUPLICATE, "this node's contribution is already counted")
        outcome = admit(plan, base.schema, reply.header, reply.arrays)
        if isinstance(outcome, Admitted) and self._gate is not None:
            seen = self._gate.judge(base, outcome.delta)
            return seen if isinstance(seen, Refusal) else outcome
        return outcome

    @staticmethod
    def _row(entry: NodeEntry, admitted: Admitted) -> dict[str, Any]:
        made = admitted.contribution
        return {
            "member": entry.member,
            "node": entry.name,
            "delta_digest": made.delta_digest,
            "delta_norm": admitted.delta.norm(),
            "codec": made.codec,
            "bytes": admitted.payload_bytes,
            "images": made.images,
            "seconds": made.seconds,
            "metrics": dict(made.metrics),
        }

    def _complete(self, collection: Collection, online: Mapping[str, NodeState]) -> bool:
        """Whether nobody who is online still owes an answer, and enough members have given one.

        A refused node owes none until it restarts; where members are missing, the deadline decides.
        """
        answered = set(collection.rows) | set(collection.refused)
        if set(online) & collection.nodes - answered:
            return False
        missing = self._missing(collection)
        if missing:
            self._say_waiting(missing)
        return not missing

    def _missing(self, collection: Collection) -> str:
        """What keeps a round from being sealed, or the empty string."""
        roster = self._home.roster()
        here = collection.members(roster)
        needed = self._settings.rounds.min_members
        if len(here) >= needed:
            return ""
        absent = [m for m in roster.members if m not in here]
        return f"{len(here)} of {needed} members contributed, none yet from {', '.join(absent)}"

    def _seal(
        self, plan: RoundPlan, standing: Standing, collection: Collection, opened: float
    ) -> Standing:
        owners = [str(collection.rows[node]["member"]) for node in collection.deltas.nodes]
        counted = [Counted(owner) for owner in owners]
        merged = self._merger.merge(collection.deltas, counted, standing.merge)
        values, outer = self._outer.step(standing.base.values, merged.delta, standing.outer)
        consensus = ParameterVector(standing.base.schema, values)
        influence = accumulate(standing.influence, merged.members)
        rows = sorted(collection.rows.values(), key=lambda row: str(row["node"]))
        facts: dict[str, Any] = {
            "federation": plan.federation,
            "round": plan.round,
            "rounds": plan.rounds,
            "base_digest": plan.base_digest,
            "plan_digest": plan.digest,
            "contributions": [
                {
                    **row,
                    "weight": float(merged.weights[row["member"]] / owners.count(row["member"])),
                }
                for row in rows
            ],
            "members": {
                name: {**merged.members.get(name, {}), "influence_total": total}
                for name, total in influence.items()
            },
            "outer": self._settings.outer.model_dump(exclude_none=True),
            "aggregation": self._settings.aggregation.model_dump(exclude_none=True),
            **merged.facts,
            "seconds": self._clock() - opened,
        }
        extra = {"outer": dict(outer)} if outer else {}
        extra |= {"merge": dict(merged.state)} if merged.state else {}
        folder = self._home.round_folder(plan.round)
        write_checkpoint(folder, self._recipe, consensus, facts, extra)
        self._release(plan.round, consensus, facts)
        self._tell(plan, merged)
        elapsed = self._clock() - opened
        self._event(
            "round_sealed",
            round=plan.round,
            vector_digest=consensus.digest,
            **merged.facts,
            influence={name: row["influence"] for name, row in merged.members.items()},
            bytes=sum(int(row["bytes"]) for row in rows),
            seconds=elapsed,
            overhead_s=elapsed - max(float(row["seconds"]) for row in rows),
        )
        return Standing(consensus, outer, merged.state, influence)

    def _tell(self, plan: RoundPlan, merged: Merged) -> None:
        """Warn when members' voices were lost."""
        if merged.minority:
            rule = self._settings.aggregation.rule
            self._event("minority_loss", round=plan.round, rule=rule, members=merged.minority)

    def _release(self, number: int, consensus: ParameterVector, facts: Mapping[str, Any]) -> None:
        """Publish a sealed round if it is due for release and not published yet."""
        rounds = self._settings.rounds
        due = number == rounds.rounds or (number and number % rounds.release_every == 0)
        folder = self._home.releases / f"release-{number:05d}"
        if due and not folder.exists():
            write_checkpoint(folder, self._recipe, consensus, facts)
            self._event("release", round=number, folder=folder.name)

    def _say_waiting(self, what: str) -> None:
        if what != self._waiting_for:
            self._waiting_for = what
            self._event("waiting", reason=what)

    def _event(self, event: str, **facts: Any) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._home.record({"at": at, "event": event, **facts})

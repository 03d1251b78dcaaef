"""Details of one round, one node or one member: read from the home when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.server.observer import Observer
from gobelin.server.overview import MemberView, NodeView, RefusedView, RoundPoint
from gobelin.server.sealed_rounds import Series
from gobelin.shared.errors import ConfigError
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.ledger.merkle import leaf_hash

SEE = "see `gobelin aggregator status`"


@dataclass(frozen=True)
class LeafView:
    """A contribution's row in the ledger."""

    index: int  # among the round's rows
    leaf: str  # its hash
    root: str  # of the round's rows, which the round's record binds


@dataclass(frozen=True)
class ContributionView:
    """One counted contribution: what it said, what was measured of it, what it weighed and why."""

    round: int  # that counted it
    asked: int  # whose plan it answers
    node: str
    member: str
    weight: float
    influence: float  # its member's in this round
    freshness: float
    step_factor: float
    reduced: tuple[str, ...]  # codes
    kept: float | None  # share of its member's way that is left in the aggregate
    minority_loss: float | None
    modality: str
    codec: str
    bytes: int
    seconds: float
    samples: int
    local_steps: int | None
    delta_norm: float | None
    delta_digest: str
    moments: bool  # whether it came with moments
    measured: Mapping[str, float]  # by the aggregator
    metrics: Mapping[str, float]  # declared by the node
    leaf: LeafView | None


@dataclass(frozen=True)
class RoundDetail:
    """One sealed round."""

    point: RoundPoint
    base_digest: str
    plan_digest: str
    aggregate_digest: str
    rule: str
    outer: str
    cap: float | None
    residual: float | None  # weight that stayed on the base
    fragment: int
    sealed: bool  # whether deltas were masked
    contributions: tuple[ContributionView, ...]
    refused: tuple[RefusedView, ...]
    absent: tuple[str, ...]  # nodes with a seat that sent nothing


@dataclass(frozen=True)
class NodeDetail:
    """One node over its rounds."""

    node: NodeView
    rounds: tuple[int, ...]  # that counted it
    bytes: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class MemberDetail:
    """One member over its rounds."""

    member: MemberView
    rounds: tuple[int, ...]
    influence: tuple[float, ...]
    nodes: tuple[NodeDetail, ...]


def round_detail(observer: Observer, number: int) -> RoundDetail:
    """A sealed round's detail; raises ConfigError where there is none of that number."""
    point = next((of for of in observer.look().history if of.round == number), None)
    facts = observer.home.find_facts(number)
    if point is None or facts is None:
        raise ConfigError(f"round {number} is not sealed here", SEE)
    leaves = _leaves(observer, number)
    told = {(one.node, one.reason): one for one in observer.times(number).refused}
    refused = [
        told.get((row["node"], row["reason"]), RefusedView(row["node"], str(row["reason"])))
        for row in facts.get("refused", ())
    ]
    return RoundDetail(
        point=point,
        base_digest=facts.get("base_digest", ""),
        plan_digest=facts.get("plan_digest", ""),
        aggregate_digest=facts.get("aggregate_digest", ""),
        rule=facts.get("aggregation", {}).get("rule", ""),
        outer=facts.get("outer", {}).get("kind", ""),
        cap=facts.get("cap"),
        residual=facts.get("residual"),
        fragment=int(facts.get("fragment", 0)),
        sealed=bool(facts.get("sealed", False)),
        contributions=tuple(
            _contribution(number, row, facts.get("members", {}), leaves)
            for row in facts.get("contributions", ())
        ),
        refused=tuple(refused),
        absent=tuple(row["node"] for row in facts.get("absent", ())),
    )


def _contribution(
    number: int,
    row: Mapping[str, Any],
    members: Mapping[str, Mapping[str, Any]],
    leaves: Mapping[tuple[str, int], LeafView],
) -> ContributionView:
    of, asked = members.get(row["member"], {}), number - int(row.get("staleness", 0))
    return ContributionView(
        round=number,
        asked=asked,
        node=row["node"],
        member=row["member"],
        weight=float(row["weight"]),
        influence=float(of.get("influence", 0.0)),
        freshness=float(row.get("freshness", 1.0)),
        step_factor=float(row.get("step_factor", 1.0)),
        reduced=tuple(of.get("reduced", ())),
        kept=of.get("kept"),
        minority_loss=of.get("minority_loss"),
        modality=row.get("modality", ""),
        codec=row.get("codec", ""),
        bytes=int(row.get("bytes", 0)),
        seconds=float(row["seconds"]),
        samples=int(row["samples"]),
        local_steps=row.get("local_steps"),
        delta_norm=row.get("delta_norm"),
        delta_digest=row["delta_digest"],
        moments=bool(row.get("moments_digest")),
        measured=row.get("measured", {}),
        metrics=row.get("metrics", {}),
        leaf=leaves.get((row["id"], asked)),
    )


def _leaves(observer: Observer, number: int) -> dict[tuple[str, int], LeafView]:
    """The ledger's rows of a round, by node id and the round whose plan they answer."""
    signed = LedgerFolder(observer.home.ledger).entry(number)
    if signed is None:
        return {}
    root = signed.entry.record.contributions_root
    return {
        (row.id, row.asked): LeafView(index, leaf_hash(row.to_bytes()).hex(), root)
        for index, row in enumerate(signed.entry.rows)
        if row.counted
    }


def node_detail(observer: Observer, name: str) -> NodeDetail:
    """A node's detail; raises ConfigError where there is none of that name on the roster."""
    node = observer.look().node(name)
    if node is None:
        raise ConfigError(f"no node on the roster is called {name!r}", SEE)
    return _node(observer, node)


def member_detail(observer: Observer, name: str) -> MemberDetail:
    """A member's detail; raises ConfigError where there never was one of that name."""
    overview = observer.look()
    member = overview.member(name)
    if member is None:
        raise ConfigError(f"no member is called {name!r}", SEE)
    moved = observer.sealed.influence.get(name, Series())
    return MemberDetail(
        member=member,
        rounds=tuple(moved.rounds),
        influence=tuple(moved.values),
        nodes=tuple(_node(observer, node) for node in overview.nodes if node.member == name),
    )


def _node(observer: Observer, node: NodeView) -> NodeDetail:
    tally = observer.sealed.nodes.get(node.id)
    if tally is None:
        return NodeDetail(node, (), (), ())
    rounds = tuple(tally.bytes_of.rounds)
    return NodeDetail(node, rounds, tuple(tally.bytes_of.values), tuple(tally.seconds_of.values))

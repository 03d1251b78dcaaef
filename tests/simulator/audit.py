"""What must hold after every event of every history, checked against the files alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from gobelin.protocols.ledger import Head
from gobelin.protocols.messages import RoundPlan
from gobelin.server.aggregation import InMemory
from gobelin.server.home import AggregatorHome
from gobelin.server.merge import Counted, Merger
from gobelin.server.outer import make_outer
from gobelin.server.policy import freshness
from gobelin.server.rules import make_rule
from gobelin.shared.checkpoint import MANIFEST, read_checkpoint
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import read_json
from gobelin.shared.ledger import LedgerFolder, entry_of, verify_history
from gobelin.shared.vector import ParameterVector
from tests.simulator.nodes import delta_of
from tests.simulator.world import World


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Expected:
    """What a sealed round must have left, computed from who was counted and nothing else."""

    vector: ParameterVector
    outer: Mapping[str, Tensor]
    merge: Mapping[str, Tensor]


class Audit:
    """Follows one history; every check raises Violation."""

    def __init__(self, home: AggregatorHome, world: World, first: ParameterVector) -> None:
        self._home = home
        self._world = world
        self._settings = settings = home.settings()
        outer, rule = settings.outer, settings.aggregation
        self._outer = make_outer(outer.kind, outer.lr, outer.momentum)
        self._merger = Merger(make_rule(rule.rule, rule.trim), settings.policy.cap)
        self._expected = {0: Expected(first, {}, {})}
        self._sealed: dict[int, str] = {}  # rounds that were said to be sealed: their digests
        self._seen: dict[int, str] = {}  # rounds that were checked: digests of their manifests
        self._said: set[tuple[str, int]] = set()  # said to be in the open round: node, plan's round
        self._counted: dict[tuple[str, str], int] = {}  # node, plan's digest → round
        self._heads: dict[int, str] = {}  # of the ledger, as nodes were shown them: size → root
        self._lying: list[tuple[str, int, int]] = []  # what was on disk at the last look

    def heard(self, event: Mapping[str, Any]) -> None:
        """The aggregator has put an event on record."""
        match event["event"]:
            case "contribution" | "late":
                self._said.add((event["node"], event["round"] - event["staleness"]))
            case "lost":
                self._said = {one for one in self._said if one[0] != event["node"]}
            case "round_sealed":
                self.look()
                self._sealed[event["round"]] = event["vector_digest"]
        self.look()

    def offered(self, node: str, plan: RoundPlan, recall: bool) -> None:
        """A node is asked for a contribution, with or without its base."""
        name = self._world.nodes_by_id[node].entry.name
        self._require((name, plan.round) not in self._said, f"{name} is asked for what is in")
        self._require((node, plan.digest) not in self._counted, f"{name} is asked for what counted")
        self._require(
            recall or plan.base_digest == self._expected[plan.round - 1].vector.digest,
            "a plan's base is not the last consensus",
        )

    def look(self) -> None:
        """Check what is new on disk, and that nothing sealed is gone."""
        on_roster = {node.name for node in self._world.roster.nodes}
        # who has left may be left out
        self._said = {one for one in self._said if one[0] in on_roster}
        with os.scandir(self._home.rounds) as entries:
            lying = sorted((one.name, one.inode(), one.stat().st_mtime_ns) for one in entries)
        if lying == self._lying:
            return
        self._lying = lying
        sealed = self._home.sealed_rounds()
        self._require(sealed == list(range(len(sealed))), f"rounds {sealed}")
        self._counted = {who: n for who, n in self._counted.items() if n in sealed}
        for number in sealed[1:]:
            self._check_round(number)
        for number, digest in self._sealed.items():
            self._require(number < len(sealed), f"sealed round {number} is gone")
            self._require(self._expected[number].vector.digest == digest, f"round {number} changed")

    def finished(self) -> None:
        """The last word: all rounds are sealed, whole, and the last is released."""
        self.look()
        last = self._settings.rounds.rounds
        self._require(sorted(self._seen) == list(range(1, last + 1)), "a round is missing")
        for number in self._home.sealed_rounds():
            found = read_checkpoint(self._home.round_folder(number)).vector.digest
            self._require(found == self._expected[number].vector.digest, f"round {number} differs")
        released = read_checkpoint(self._home.releases / f"release-{last:05d}").vector
        self._require(released.digest == self._expected[last].vector.digest, "another release")
        ledger = LedgerFolder(self._home.ledger).read()
        try:
            told = verify_history(ledger, self._home.signing_key().public)
        except GobelinError as error:
            raise Violation(f"the ledger does not hold: {error.what}") from None
        self._require(told.rounds == last, "a round is not in the ledger")
        for number, signed in enumerate(ledger.entries):
            made = entry_of(read_json(self._home.round_folder(number) / MANIFEST))
            self._require(signed.entry == made, f"round {number} is another in the ledger")

    def signed(self, head: Head) -> None:
        """A node is shown a head of the ledger: never two of one size."""
        before = self._heads.setdefault(head.size, head.root)
        self._require(before == head.root, f"two histories of {head.size} rounds")

    def _check_round(self, number: int) -> None:
        manifest = read_json(self._home.round_folder(number) / MANIFEST)
        if self._seen.get(number) == manifest["manifest_digest"]:
            return
        facts = manifest["facts"]
        self._counted = {who: n for who, n in self._counted.items() if n != number}
        before = self._expected[number - 1]
        self._require(facts["base_digest"] == before.vector.digest, "bases do not chain")
        self._check_rows(number, facts)
        self._check_quorum(facts)
        self._check_weights(facts)
        self._expected[number] = self._recompute(before, facts)
        self._require(
            self._expected[number].vector.digest == manifest["vector_digest"],
            f"round {number} is not a function of what it counted",
        )
        self._seen[number] = manifest["manifest_digest"]
        self._said.clear()

    def _check_rows(self, number: int, facts: Mapping[str, Any]) -> None:
        rows = facts["contributions"]
        for row in rows:
            who = (row["id"], row["plan_digest"])
            self._require(who not in self._counted, f"{row['node']} counts twice")
            self._counted[who] = number
            late = row["staleness"]
            self._require(0 <= late <= self._settings.rounds.max_staleness, "too late")
            asked = facts if not late else self._home.facts(number - late)
            self._require(row["plan_digest"] == asked["plan_digest"], "an answer to no plan")
            sent = delta_of(row["id"], row["plan_digest"]).digest
            self._require(row["delta_digest"] == sent, "counted what was not sent")
        counted = {(row["node"], number - row["staleness"]) for row in rows}
        self._require(self._said <= counted, f"said to be in, and is not: {self._said - counted}")
        if self._world.scenario.gentle:
            everyone = sorted(node.id for node in self._world.roster.nodes)
            fresh = sorted(row["id"] for row in rows if not row["staleness"])
            self._require(fresh == everyone and len(rows) == len(fresh), "somebody was left out")

    def _check_quorum(self, facts: Mapping[str, Any]) -> None:
        here = {row["member"] for row in facts["contributions"] if not row["staleness"]}
        members = here | {seat["member"] for seat in facts["absent"]}
        rounds = self._settings.rounds
        needed = max(rounds.min_members, math.ceil(Fraction(repr(rounds.quorum)) * len(members)))
        self._require(len(here) >= needed, f"{len(here)} members, {needed} are a quorum")

    def _check_weights(self, facts: Mapping[str, Any]) -> None:
        weights: dict[str, float] = {}
        for row in facts["contributions"]:
            self._require(row["weight"] > 0, "a weight that is none")
            weights[row["member"]] = weights.get(row["member"], 0.0) + row["weight"]
        cap, slack = self._settings.policy.cap, 1e-12
        self._require(all(w <= cap + slack for w in weights.values()), "a weight over the cap")
        self._require(sum(weights.values()) <= 1 + slack, "weights of more than one")

    def _recompute(self, before: Expected, facts: Mapping[str, Any]) -> Expected:
        """The consensus again, from the deltas that the nodes sent, in the order of their keys."""
        rows = sorted(facts["contributions"], key=lambda row: (row["id"], -row["staleness"]))
        deltas = [delta_of(row["id"], row["plan_digest"]).values for row in rows]
        decay = self._settings.rounds.staleness_decay
        counted = [Counted(row["member"], 3, freshness(row["staleness"], decay)) for row in rows]
        merged = self._merger.merge(InMemory(deltas), counted, before.merge)
        values, outer = self._outer.step(before.vector.values, merged.delta, before.outer)
        return Expected(ParameterVector(before.vector.schema, values), outer, merged.state)

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(what)

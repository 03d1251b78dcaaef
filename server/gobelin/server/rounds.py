"""The rounds of a federation, one after the other, from the last sealed one to the last planned.

State on disk is the only truth: a round exists once its checkpoint folder does, and before that
in the journal, so a killed aggregator goes on with the contributions it has.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.protocols.version import OLDEST, PROTOCOL
from gobelin.server.courier import Courier
from gobelin.server.dispatch import Dispatch
from gobelin.server.envelopes import Envelopes
from gobelin.server.history import Past, past_rounds
from gobelin.server.home import AggregatorHome, FederationSettings, RoundSettings
from gobelin.server.journal import Journal
from gobelin.server.ledger import RoundLedger
from gobelin.server.open_round import OpenRound
from gobelin.server.probe import ProbeLoss, open_probe
from gobelin.server.quality import SAMPLES, CollapseGate, Examiner
from gobelin.server.retention import prune
from gobelin.server.rim import Rim
from gobelin.server.rollcall import RollCall
from gobelin.server.round_events import Convened
from gobelin.server.round_state import Known
from gobelin.server.seal import Sealer, Standing
from gobelin.server.sealed_policy import require_sealable
from gobelin.server.terms import terms_of
from gobelin.shared.ledger.course import told
from gobelin.shared.logs import bound
from gobelin.shared.recipe import Recipe
from gobelin.shared.sealing import bits_for

FAREWELL_POLL_S = 0.2
FAREWELL_S = 10.0  # for nodes to hear that the federation has finished


def make_examiner(recipe: Recipe, settings: FederationSettings) -> Examiner:
    """What contributions are looked at with: the public probe's samples, or made-up ones."""
    policy, seed = settings.policy, settings.seed
    evidence, samples = {}, None
    if policy.probe is not None:
        probe = open_probe(policy.probe, recipe, seed, policy.probe_images)
        evidence, samples = {"": ProbeLoss(recipe, seed, probe)}, probe.read(np.arange(SAMPLES))
    if not policy.collapse_gate:
        return Examiner({}, evidence)
    told = recipe.told_modalities
    gates = {name: CollapseGate(recipe, seed, samples, name or None) for name in told}
    return Examiner(gates, evidence)


class RoundEngine:
    """Runs a federation's rounds from the last sealed one to the last planned one."""

    def __init__(
        self,
        home: AggregatorHome,
        courier: Courier,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is any that goes forward; `wall` is Unix time."""
        self._settings = settings = home.settings()
        self._recipe = home.recipe()
        settings.require_fit(self._recipe)
        require_sealable(settings, self._recipe)
        home.require_places(home.roster())
        examiner = make_examiner(self._recipe, settings)
        ledger = RoundLedger(home, self._tell)
        self._rim = Rim(
            home=home,
            journal=Journal(home.journal),
            courier=courier,
            envelopes=Envelopes(home, wall),
            examiner=examiner,
            sealer=Sealer(home, examiner, ledger, self._tell),
            ledger=ledger,
            tell=self._tell,
            clock=clock,
            sleep=sleep,
        )

    def run(self) -> None:
        """Run every round that is not sealed yet; raises RoundError when one cannot be."""
        rim, rounds = self._rim, self._settings.rounds
        last, checkpoint = rim.home.latest()
        standing = Standing.of(checkpoint)
        rim.ledger.mend()
        rim.sealer.publisher.release(
            last, standing.base, checkpoint.facts
        )  # a kill may have come between
        self._call_roll(standing)
        known = Known()
        for number in range(last + 1, rounds.rounds + 1):
            plan = self._as_begun(self._plan(number, standing))
            terms = terms_of(self._settings, standing.scores)
            opened = OpenRound(rim, plan, terms, standing, self._past(plan), known)
            with bound(round=number):
                standing, known = opened.run(), opened.known
            prune(rim.home, self._settings.retention, rounds.max_staleness)
            del opened  # with the base before; else it is held until the next round has begun
        rim.journal.clear()  # a kill may have come between
        digest = standing.base.digest
        self._tell("finished", {"round": rounds.rounds, "vector_digest": digest})
        self._farewell(Farewell(self._settings.name, rounds.rounds, digest), standing)

    def _plan(self, number: int, standing: Standing) -> RoundPlan:
        rounds, base = self._settings.rounds, standing.base
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
            broadcast=rounds.broadcast,
            cross_node=rounds.cross_node and number < rounds.rounds,  # nobody would use the last's
            moments_digest=standing.moments.digest if standing.moments else "",
            fragments=self._settings.outer.fragments,
            alpha=self._settings.outer.alpha,
            warmup_rounds=rounds.warmup_rounds,
            rollbacks=told(self._rim.ledger.rollbacks),
            **_sealed_terms(rounds),
        )

    def _call_roll(self, standing: Standing) -> None:
        """Where this home was restored from a backup, hear first what members know."""
        rim = self._rim
        dispatch = Dispatch(rim.home, standing, rim.envelopes, rim.ledger, self._tell)
        RollCall(rim, dispatch, terms_of(self._settings)).hold()

    def _as_begun(self, plan: RoundPlan) -> RoundPlan:
        """The plan as an older gobelin has begun this very round by: what is in counts on."""
        events = self._rim.journal.events()
        begun = events[0].plan_digest if events and isinstance(events[0], Convened) else ""
        older = (replace(plan, protocol=number) for number in range(OLDEST, PROTOCOL))
        return next((one for one in older if one.digest == begun), plan)

    def _past(self, plan: RoundPlan) -> dict[int, Past]:
        """The sealed rounds that may still be answered.

        Those of older versions may not, nor those before a rollback: their base was left behind.
        """
        since = max(self._rim.ledger.rollbacks, default=0)
        first = max(1, plan.round - self._settings.rounds.max_staleness, since)
        sealed = set(self._rim.home.sealed_rounds())  # some may lie with an aggregator before
        facts = {n: self._rim.home.facts(n) for n in range(first, plan.round) if n in sealed}
        return past_rounds({n: of for n, of in facts.items() if "plan" in of}, plan)

    def _farewell(self, farewell: Farewell, standing: Standing) -> None:
        """Tell the nodes that are online; those that are not will find the aggregator gone."""
        rim = self._rim
        known = rim.home.roster().by_id()
        waiting = {s.id for s in rim.courier.nodes() if s.online and s.id in known}
        dispatch = Dispatch(rim.home, standing, rim.envelopes, rim.ledger, self._tell)
        owners = {node: known[node].member for node in sorted(waiting)}
        rim.courier.send(dispatch.farewells(farewell, owners))
        give_up = rim.clock() + FAREWELL_S
        while waiting and rim.clock() < give_up:
            for reply in rim.courier.replies():
                waiting.discard(reply.node)
                if reply.cosignature:
                    rim.ledger.take(reply.node, reply.cosignature)
            rim.sleep(FAREWELL_POLL_S)

    def _tell(self, event: str, facts: Mapping[str, Any]) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self._rim.home.record({"at": at, "event": event, **facts})


def _sealed_terms(rounds: RoundSettings) -> dict[str, Any]:
    """What a plan says of sealing; nothing in an open round."""
    if not rounds.sealed:
        return {}
    return {
        "sealed": True,
        "sealed_bits": bits_for(rounds.sealed_members, rounds.sealed_bound),
        "sealed_bound": rounds.sealed_bound,
        "sealed_norm": rounds.sealed_norm or 0.0,
        "sealed_threshold": rounds.sealed_threshold,
    }

"""The contributor: turns a round plan and its base into a contribution from private data."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from gobelin.client.base import KeptBase
from gobelin.client.claims import claims_of
from gobelin.client.codec_choice import codec_for
from gobelin.client.envelopes import Envelopes, holds
from gobelin.client.home import NodeHome, NodeStatus, Say
from gobelin.client.node_seed import node_seed
from gobelin.client.plan import (
    check_fragments,
    parse_recipe,
    pooled_moments,
    rollbacks_of_plan,
    schema_of,
)
from gobelin.client.privacy.budget import BARE, Prospect, prospect_of, sane_delta
from gobelin.client.privacy.training import PrivateTrainer
from gobelin.client.sealer import SALT_BYTES, SealedReply, Sealer, on_grid
from gobelin.client.shadow.held_out import Parts
from gobelin.client.shadow.shadow import Shadow
from gobelin.client.site_policy import SitePolicy, read_policy, require
from gobelin.client.spool import Spool, Spooled, blinded
from gobelin.client.trainer import LocalSteps, LocalTrainer, StepReport
from gobelin.client.workbench import build_private_trainer, build_trainer, open_parts
from gobelin.protocols.envelope import Envelope
from gobelin.protocols.messages import Contribution, Receipt, RoundPlan
from gobelin.protocols.sealing import SealedCall
from gobelin.shared.alarm import collapse_alarm
from gobelin.shared.codec import LOSSLESS, codec_named, compress
from gobelin.shared.envelope import NEVER
from gobelin.shared.errors import ConfigError, ContributionError, GobelinError, PrivacyError
from gobelin.shared.fragments import Fragment, fragment_of_round, start_of_round
from gobelin.shared.health import Health
from gobelin.shared.ledger.course import course_of
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.recipe import Recipe
from gobelin.shared.schedule import Schedule
from gobelin.shared.sealing import Ring
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import ParameterSchema, ParameterVector

MARGIN = 0.1  # of a round's deadline, for its base to come, and its contribution to go


class Contributor:
    """Long-lived: the model, the data and the inner optimizer stay warm between rounds."""

    def __init__(self, home: NodeHome, on_status: Say) -> None:
        self._settings = home.settings()
        self._home = home
        self._on_status = on_status
        self._spool = Spool(home.spool)
        self._kept = KeptBase(home.base_file)
        self._sealer = Sealer(home, self._settings)
        self.envelopes = Envelopes(home)
        self._trainer: LocalTrainer | None = None
        self._trained = 0  # the round after which the trainer's inner state stands
        self._recipe_digest = ""
        self._samples: int | None = None  # of this node's data, once somebody asks
        self._parts: Parts | None = None  # of this node's data, once they are open
        self._shadow = Shadow(home, self._settings, on_status) if self._settings.shadow else None
        self._sound: Health | None = None  # of the last model that had not collapsed
        self._writer = ThreadPoolExecutor(1, "spool")
        self._written: Future[None] | None = None  # of what is not known to be in the spool yet

    def hear(self, federation: str, before: int, receipts: Iterable[Receipt]) -> None:
        """Keep what became of the contributions to rounds before `before`, and say what is new."""
        for entry in self._spool.settle(federation, before, receipts):
            made = entry.contribution
            self._on_status(NodeStatus("idle", round=made.round, note=entry.fate))

    def flush(self) -> None:
        """Wait until spool and shadow have what was prepared last; then others may be told of it.

        Raises OSError where the spool cannot be written.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()
        if self._shadow is not None:
            self._shadow.settle()

    def prepare(
        self,
        plan: RoundPlan,
        segments: Mapping[str, bytes] | None,
        moments: bytes = b"",
        steps: Sequence[CodedStep] = (),
        envelope: Envelope | None = None,
    ) -> Spooled:
        """Train the plan's local steps, or take the result from the spool if they are done.

        `segments` are those of the whole base; without them `steps` lead to it from one that this
        node has kept. `moments` are those of all nodes on the last base. `envelope` is the plan's,
        opened, and says how long an answer holds. What is made is on its way into the spool: see
        `flush`. Raises EnvelopeReplayedError on a plan that a later one has overtaken, and
        ContributionError when plan, base and moments do not belong together (it is a
        BaseMissingError where the node must be sent the whole base), CodecError when the plan
        names a codec this node does not have, BudgetError when no codec keeps its egress budget,
        StateError when the plan is of another federation.
        """
        self._sealer.require(plan)
        self.flush()
        base = self._base(plan, segments, steps)
        pools = pooled_moments(plan, moments)
        pooled = pools.pooled.get(self._modality(plan)) if pools else None
        fragment = self._part(plan, base.schema)
        self._sealer.expect(plan)
        done = self._finished(plan, fragment, envelope)
        if done is not None:
            self._keep(plan, base)
            if self._shadow is not None:
                told = done.contribution
                self._shadow.answered(plan, base, told.samples, told.seconds)
            return done
        if envelope is not None:
            self.envelopes.begin(envelope)
        codec_named(plan.codec)  # CodecError on one that this version does not have
        policy = read_policy(self._home)
        require(policy, plan, datetime.datetime.now(), self._prospect(plan, policy))
        codec = codec_for(plan, fragment.schema, policy, self._home)  # before what it would waste
        started = time.monotonic()
        trainer = self._warm_trainer(plan)
        self._trained = -1  # until it is in the spool, what is trained here counts for nothing
        try:
            local, own = self._local_steps(trainer, plan, base, pooled)
            local = replace(local, seconds=self._budget(plan) - (time.monotonic() - started))
            start = self._start(plan, base)
            trained, report = trainer.train(start, local, lambda step: self._show(plan, step))
        except torch.OutOfMemoryError:
            raise ConfigError(
                "the device has too little memory for this recipe",
                "free it, use bf16 (compute.precision), or join with a larger one",
            ) from None
        self._watch(plan, report.health)
        seconds = time.monotonic() - started
        spend = trainer.spend(report.steps) if isinstance(trainer, PrivateTrainer) else None
        sends = plan.cross_node and self._settings.egress.moments and policy.moments
        sent = own.to_bytes() if own is not None and sends else b""
        debt = self._spool.debt_before(plan.round)
        due = None if debt.owed is None else fragment.take(debt.owed)
        delta, salt = fragment.of(trained) - fragment.of(base), b""
        if plan.sealed:
            ring = Ring(plan.sealed_bits, plan.sealed_bound)
            made, salt = on_grid(ring, delta, due, plan.sealed_norm), os.urandom(SALT_BYTES)
        else:
            made = compress(codec, delta, due)
        premium = self._shadow.claims() if self._shadow else {}
        claims = claims_of(trainer, report, seconds, made, policy, premium)
        contribution = Contribution(
            federation=plan.federation,
            round=plan.round,
            plan_digest=plan.digest,
            base_digest=plan.base_digest,
            delta_digest=blinded(made.payload.digest, salt),
            local_steps=report.steps,
            samples=claims.samples,
            seconds=claims.seconds,
            metrics=claims.metrics,
            codec=codec,
            moments_digest=digest_of(sent),
            modality=self._modality(plan),
            sealed=plan.sealed,
        )
        residual = fragment.owe(debt.owed, made.residual)
        signed = self.envelopes.seal(contribution, envelope.expires if envelope else NEVER)
        inner, model = trainer.state(), trained.values if plan.fragments > 1 else None

        def write() -> None:
            self._keep(plan, base)
            state = (inner, residual, debt, own, model, salt)
            self._spool.put(contribution, made.payload, *state, signed, spend)
            self._trained = plan.round

        self._written = self._writer.submit(write)
        if self._shadow is not None:
            self._shadow.answered(plan, base, report.samples, seconds)
            assert self._parts is not None
            self._shadow.begin(trainer, self._parts)
        if spend is not None:
            self.flush()  # what it spends is read from there before any of it leaves
        return Spooled(contribution, made.payload, sent, signed, spend)

    def _prospect(self, plan: RoundPlan, policy: SitePolicy) -> Prospect:
        """What this node would train a plan by; raises PrivacyError where that is not private."""
        if self._settings.privacy is None:
            return BARE
        if bare := self._spool.bare():
            raise PrivacyError(
                f"round {bare[0]} in the spool is not private, and later ones go on from it",
                f"remove {self._home.spool}, or join anew with another --home",
            )
        if self._samples is None:
            self._samples = len(open_parts(self._settings, parse_recipe(plan.recipe)).kept)
        sane_delta(self._samples, policy.delta)
        return prospect_of(self._home, self._settings, plan, self._samples, policy.delta)

    def _watch(self, plan: RoundPlan, health: Health) -> None:
        """Warn where what was trained has collapsed; the last sound model is what it is held to."""
        alarm = collapse_alarm(health, self._sound)
        if alarm is None:
            self._sound = health
            return
        note = f"round {plan.round} left a collapsed model ({alarm.kind}): {alarm.found}"
        self._on_status(NodeStatus("warning", round=plan.round, note=note))

    def finished(self, plan: RoundPlan, envelope: Envelope | None = None) -> Spooled | None:
        """What this node has finished for a plan, or None; nothing is trained for it.

        Raises ContributionError when the plan's recipe is none, StateError on a damaged spool.
        """
        schema = schema_of(parse_recipe(plan.recipe))
        check_fragments(plan, schema)
        return self._finished(plan, self._part(plan, schema), envelope)

    def _finished(
        self, plan: RoundPlan, part: Fragment, envelope: Envelope | None
    ) -> Spooled | None:
        """What is spooled, signed anew where its envelope did not hold any more when asked for."""
        done = self._spool.find(plan.digest, plan.round, part.schema)
        if done is None or envelope is None or holds(done.envelope, envelope.issued):
            return done
        signed = self.envelopes.seal(done.contribution, envelope.expires)
        self._spool.renew(plan.round, signed)
        return replace(done, envelope=signed)

    def seal(self, call: SealedCall) -> SealedReply:
        """Answer a call of a sealed round, from the spool; raises SealingError and its kin."""
        return self._sealer.answer(call, self.finished)

    def _modality(self, plan: RoundPlan) -> str:
        """What this node tells as its modality; raises ConfigError where the recipe lacks it."""
        return parse_recipe(plan.recipe).told(self._settings.data.modality)

    def _part(self, plan: RoundPlan, schema: ParameterSchema) -> Fragment:
        """What of the model this node exchanges in the plan's round; raises ConfigError."""
        fragment = fragment_of_round(schema, plan.fragments, plan.round)
        return fragment.part(self._modality(plan))

    def _base(
        self, plan: RoundPlan, segments: Mapping[str, bytes] | None, steps: Sequence[CodedStep]
    ) -> ParameterVector:
        """The base vector, known to be the one the plan names."""
        if plan.local_steps < 1 or not 1 <= plan.round <= plan.rounds:
            raise ContributionError(f"round {plan.round} of {plan.rounds} is no round")
        schema = schema_of(parse_recipe(plan.recipe))
        if schema.digest != plan.schema_digest:
            raise ContributionError("the plan's recipe builds another schema here")
        check_fragments(plan, schema)
        if segments is None:
            base = self._kept.reach(schema, steps, plan.base_digest, plan.fragments)
        else:
            base = ParameterVector.of_segments(schema, segments)
            if base.digest != plan.base_digest:
                raise ContributionError("the base is not the one the plan names")
        self._home.pin("federation", plan.federation)
        self._go_back(plan)
        return base

    def _go_back(self, plan: RoundPlan) -> None:
        """Where the federation went back, go on from what this node had then, and from no later.

        Debts and momentum of the rounds it has left are of another model.
        """
        rollbacks = rollbacks_of_plan(plan)
        course = course_of(plan.round - 1, rollbacks)
        if not rollbacks or not (gone := self._spool.leave(course, plan.round)):
            return
        since = self._spool.last_before(plan.round)
        told = ", ".join(map(str, gone))
        after = f"as it was after round {since}" if since else "anew"
        note = f"the federation went back behind {told}: this node's training state is {after}"
        self._on_status(NodeStatus("warning", round=plan.round, note=note))

    def _keep(self, plan: RoundPlan, base: ParameterVector) -> None:
        """Keep a base where steps may follow, before the aggregator counts on it."""
        if plan.broadcast != LOSSLESS:
            self._kept.keep(base)

    def _local_steps(
        self, trainer: LocalTrainer, plan: RoundPlan, base: ParameterVector, pooled: Moments | None
    ) -> tuple[LocalSteps, Moments | None]:
        """What to train, and the base's moments on this node's data where a round needs them.

        The offset is from this node's moments of the last base, as `pooled` is. A node that has
        none, for it was away, takes this base's: in a split world that is far better than no
        offset.
        """
        schedule = Schedule.of(plan)
        local = LocalSteps(
            first_step=schedule.first_step(plan.round),
            steps=schedule.steps_of(plan.round),
            total_steps=schedule.total_steps,
            seed=plan.seed,
            node_seed=node_seed(self._home, plan),
        )
        before = self._spool.moments_of(plan.round - 1, trainer.recipe.projector.out)
        needed = plan.cross_node or (pooled is not None and before is None)
        needed = needed and self._settings.privacy is None  # its objective tests nothing
        own = trainer.moments(base, local) if needed else None
        if pooled is not None and (mine := before or own) is not None:
            local = replace(local, offset=pooled.offset_from(mine))
        return local, own

    def _start(self, plan: RoundPlan, base: ParameterVector) -> ParameterVector:
        """Where local steps start: the base, or this node's own model with what has been shared."""
        kept = self._spool.local_before(plan.round) if plan.fragments > 1 else None
        if kept is None:
            return base
        return start_of_round(plan.round, base, plan.fragments, *kept, plan.alpha)

    def _warm_trainer(self, plan: RoundPlan) -> LocalTrainer:
        """The trainer with its inner state after the round before the plan's."""
        recipe = parse_recipe(plan.recipe)
        before = self._spool.last_before(plan.round)
        anew = self._trained != 0 and before == 0  # back to the first round, or never spooled it
        if self._trainer is None or recipe.digest != self._recipe_digest or anew:
            self._trainer = self._build(plan, recipe)
            self._recipe_digest = recipe.digest
            self._trained = 0
        if before != self._trained:
            self._trainer.load_state(self._spool.inner_after(before))
            self._trained = before
        return self._trainer

    def _build(self, plan: RoundPlan, recipe: Recipe) -> LocalTrainer:
        settings, privacy = self._settings, self._settings.privacy
        self._parts = open_parts(settings, recipe)
        kept = self._parts.kept
        if privacy is not None:
            return build_private_trainer(settings, privacy, recipe, self._home.secret(), kept)
        return build_trainer(settings, recipe, node_seed(self._home, plan), kept)

    def rest(self, called: Callable[[], bool]) -> bool:
        """Let the shadow use the time until something is `called` for; whether it had any use.

        The trainer is lent to it: the next round finds the inner optimizer in the spool.
        """
        if self._shadow is None or (plan := self._shadow.plan) is None:
            return False
        self.flush()
        try:
            trainer = self._warm_trainer(plan) if self._trainer is None else self._trainer
        except GobelinError as error:
            self._shadow.end(str(error))
            return False
        assert self._parts is not None
        worked = self._shadow.work(trainer, self._parts, called)
        self._trained = -1 if worked else self._trained
        return worked

    def _budget(self, plan: RoundPlan) -> float:
        """Seconds a round's training may take here."""
        own = self._settings.compute.seconds_per_round
        return math.inf if own is None else min(own, (1 - MARGIN) * plan.deadline_s)

    def _show(self, plan: RoundPlan, step: StepReport) -> None:
        self._on_status(
            NodeStatus(
                "training",
                round=plan.round,
                rounds=plan.rounds,
                step=step.done,
                steps=step.steps,
                samples_per_second=step.samples_per_second,
                loss=step.loss,
                effective_rank=step.effective_rank,
                time_left_s=step.seconds_left,
            )
        )

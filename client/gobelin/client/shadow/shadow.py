"""The shadow's work: a solo model trained and judged while a node waits for its next plan.

It is done in pieces, and gives way after the one under way as soon as mail has come: so what a node
contributes is late by a local step at most, and by what it takes to look at the trained model. What
has been done lies in `shadow/`, written while the node waits; a kill costs what came after the last
writing, which is done again to the same bytes. What the node contributes is on record there before
it leaves, so a contribution waits for what is being written just then, the solo model at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from gobelin.client.deterministic import deterministic
from gobelin.client.home import NodeHome, NodeSettings, NodeStatus, Say
from gobelin.client.node_seed import node_seed
from gobelin.client.plan import parse_recipe
from gobelin.client.shadow.held_out import Parts
from gobelin.client.shadow.premium import Point
from gobelin.client.shadow.quality import Judging, Quality, judge, measure_of
from gobelin.client.shadow.record import SOLO, Record, read_record
from gobelin.client.shadow.solo import Solo, read_solo
from gobelin.client.trainer import LocalTrainer, StepReport
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import GobelinError, ShadowError
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

SLICE_S = 30.0  # of solo training between two writings
SAY_EVERY_S = 1.0
MEASURING = 0.5  # of the shadow's time, at most; the first look at each is always taken

Called = Callable[[], bool]  # whether something else is to be done


@dataclass(frozen=True)
class Answered:
    """A plan that this node has answered, and its base."""

    plan: RoundPlan
    base: ParameterVector
    samples: int
    seconds: float


@dataclass
class Judged:
    """A judging under way: of the base of a round, or of the solo model."""

    work: Judging
    keep: Callable[[Quality], Record]


def _goes_on(record: Record, plan: RoundPlan) -> bool:
    return plan.recipe == record.plan.recipe and plan.round >= record.from_round


class Shadow:
    """Of one node; its record and its solo model are what is on disk, and what was done since."""

    def __init__(
        self,
        home: NodeHome,
        settings: NodeSettings,
        say: Say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert settings.shadow is not None
        self._home, self._settings, self._say, self._clock = home, settings.shadow, say, clock
        self._over = ""  # why the shadow has ended, in this process
        self._record: Record | None = None
        self._solo: Solo | None = None
        self._answered: Answered | None = None  # not in the record yet
        self._base: tuple[int, ParameterVector] | None = None  # of a round, not judged yet
        self._judged: Judged | None = None
        self._dirty = False  # the solo model is not as it lies on disk
        self._writer = ThreadPoolExecutor(1, "shadow")
        self._writing: Future[None] | None = None
        self._said = 0.0
        try:
            self._record = read_record(home.shadow)
        except ShadowError as error:
            self.end(str(error))

    @property
    def plan(self) -> RoundPlan | None:
        """The last plan that this node has answered, before a restart, too."""
        if self._answered is not None:
            return self._answered.plan
        return None if self._record is None or self._over else self._record.plan

    def answered(
        self, plan: RoundPlan, base: ParameterVector, samples: int, seconds: float
    ) -> None:
        """Hear of a contribution, which is on record before it leaves (`settle`); more takes time.

        A round that were missing there would have the consensus of fewer samples than it has.
        """
        self._answered = Answered(plan, base, samples, seconds)
        record = self._record
        if record is None or self._over or not _goes_on(record, plan):
            return
        told = record.trained.get(plan.round, (samples, seconds))
        self._record = record.answered(plan, *told)
        with self._guarded():
            self._submit(partial(self._record.write, self._home.shadow))

    def begin(self, trainer: LocalTrainer, parts: Parts) -> None:
        """Begin with the answer just given, where nothing has begun yet."""
        if self._record is None and not self._over:
            with self._guarded():
                self._catch_up(trainer, parts)

    def claims(self) -> dict[str, float]:
        """The premium as it may be declared; nothing unless the operator shares it."""
        if not self._settings.share or self._record is None or self._over:
            return {}
        return self._record.claims()

    def work(self, trainer: LocalTrainer, parts: Parts, called: Called) -> bool:
        """Use the time until something is `called` for; whether there was anything to do.

        `trainer` is left with whatever it did last. What fails ends the shadow and never the node:
        the operator is told, and the record says why.
        """
        with self._guarded():
            return self._work(trainer, parts, called)
        return True  # it has ended

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (GobelinError, OSError, torch.OutOfMemoryError) as error:
            self.end(str(error))

    def _work(self, trainer: LocalTrainer, parts: Parts, called: Called) -> bool:
        if self._over:
            return False
        self._catch_up(trainer, parts)
        worked = False
        since: float | None = None

        def watched() -> bool:
            nonlocal since
            if called():
                since = self._clock() if since is None else since
            return since is not None

        while not watched() and (piece := self._piece(trainer, parts)) is not None:
            piece(watched)
            worked = True
            if not watched():
                self._write(trainer)
        record = self._of_record()
        if since is not None:
            longest = max(record.waited_s, self._clock() - since)
            self._record = replace(record, waited_s=longest)
        if worked:
            self._say(NodeStatus("idle", round=record.plan.round, note=self._tale()))
        return worked

    # ------------------------------------------------------------ what there is to do

    def _piece(self, trainer: LocalTrainer, parts: Parts) -> Callable[[Called], None] | None:
        """The next piece of work; None where nothing is to be done, or no time is left for it."""
        record, solo = self._of_record(), self._of_solo()
        left = record.owed_s(self._settings.compute)
        if left <= 0:
            return None
        if self._judged is None:
            self._judged = self._next_look(trainer, parts)
        if self._judged is not None:
            return lambda called: self._look(called)
        if solo.samples >= record.contributed:
            return None
        return lambda called: self._train(trainer, min(left, SLICE_S), called)

    def _next_look(self, trainer: LocalTrainer, parts: Parts) -> Judged | None:
        """Judge the newest base, or the solo model at the end of a round's worth of steps."""
        record, solo = self._of_record(), self._of_solo()
        rich = record.measuring_s <= MEASURING * record.spent_s
        if self._base is not None and (rich or not record.consensus):
            (number, base), self._base = self._base, None
            samples = record.before(number)

            def keep(found: Quality) -> Record:
                return self._of_record().with_consensus(Point(number, samples, found.percent))

            return Judged(self._judging(trainer, parts, base), keep)
        known = [point.at for point in record.solo]
        turned = solo.steps % record.plan.local_steps == 0 or solo.samples >= record.contributed
        if not solo.steps or solo.steps in known or not turned or not (rich or not known):
            return None

        def keep_solo(found: Quality) -> Record:
            return self._of_record().with_solo(Point(solo.steps, solo.samples, found.percent))

        return Judged(self._judging(trainer, parts, solo.vector), keep_solo)

    def _judging(self, trainer: LocalTrainer, parts: Parts, vector: ParameterVector) -> Judging:
        seed = derive_seed(0, "premium")
        load = lambda: vector.load_into(trainer.model)  # noqa: E731
        return judge(trainer.encoder, load, parts, seed, trainer.device)

    def _look(self, called: Called) -> None:
        """Go on judging until it is done or something is called for."""
        assert self._judged is not None
        started = self._clock()
        self._tell("judging the consensus beside the solo model")
        found: Quality | None = None
        with deterministic():
            while found is None and not called():
                try:
                    next(self._judged.work)
                except StopIteration as done:
                    found = done.value
        record = self._of_record() if found is None else self._judged.keep(found)
        spent = record.measuring_s + self._clock() - started
        self._record = replace(record, measuring_s=spent)
        if found is not None:
            self._judged = None

    def _train(self, trainer: LocalTrainer, seconds: float, called: Called) -> None:
        """A slice of solo training."""
        record, started = self._of_record(), self._clock()
        seed = node_seed(self._home, record.plan)
        solo = self._of_solo().go_on(trainer, record.plan, seed, seconds, self._show, called)
        self._solo, self._dirty = solo, True
        spent = record.training_s + self._clock() - started
        self._record = replace(
            record, solo_steps=solo.steps, solo_samples=solo.samples, training_s=spent
        )

    # ------------------------------------------------------------ what is kept

    def _catch_up(self, trainer: LocalTrainer, parts: Parts) -> None:
        """Take the last answer into the record, begun anew where there is none to go on from."""
        assert parts.held is not None
        now, self._answered = self._answered, None
        record, size = self._record, len(parts.kept) + len(parts.held)
        if now is None:
            return
        number = now.plan.round
        if record is None or number < record.from_round:
            held, measure = len(parts.held), measure_of(parts)
            record = Record(now.plan, trainer.recipe.digest, number, {number: size}, held, measure)
            self._solo, self._dirty = Solo(now.base, {}, number), True
        self._require(record, trainer, parts)
        told = record.trained.get(number, (now.samples, now.seconds))
        record = record.answered(now.plan, *told)
        if size != list(record.data.values())[-1]:
            grown = {**record.data, number: size}
            record = replace(record, data=grown, held_out=len(parts.held))
        if all(point.at != number for point in record.consensus):
            self._base, self._judged = (number, now.base), None
        self._record = record
        self._write(trainer)

    def _require(self, record: Record, trainer: LocalTrainer, parts: Parts) -> None:
        """Raise ShadowError where what was measured does not go on."""
        if record.recipe_digest != trainer.recipe.digest or record.measure != measure_of(parts):
            what = "the recipe" if record.recipe_digest != trainer.recipe.digest else "the labels"
            raise ShadowError(
                f"{what} of before are not those of now: the solo model cannot be compared",
                f"remove {self._home.shadow}; a new one is begun",
            )

    def _write(self, trainer: LocalTrainer) -> None:
        """Bring what has been done to disk, while others go on; the model before what is of it."""
        record, solo = self._of_record(), self._of_solo() if self._dirty else None
        self._dirty = False

        def write() -> None:
            if solo is not None:
                solo.write(self._home.shadow / SOLO, trainer.recipe)
            record.write(self._home.shadow)

        self._submit(write)

    def _submit(self, write: Callable[[], None]) -> None:
        if self._writing is not None:
            self._writing.result()
        self._writing = self._writer.submit(write)

    def settle(self) -> None:
        """Wait until what was written is on disk; where it cannot be, the shadow ends."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with self._guarded():
                writing.result()

    def _of_record(self) -> Record:
        assert self._record is not None
        return self._record

    def _of_solo(self) -> Solo:
        """The solo model; from disk after a restart, and as the record knows it from then on."""
        if self._solo is None:
            record = self._of_record()
            recipe = parse_recipe(record.plan.recipe)
            solo = read_solo(self._home.shadow / SOLO, recipe)
            if solo is None or solo.from_round != record.from_round:
                raise ShadowError(
                    f"{self._home.shadow / SOLO} has no solo model",
                    f"remove {self._home.shadow}; a new one is begun",
                )
            self._solo = solo
            self._record = replace(record, solo_steps=solo.steps, solo_samples=solo.samples)
        return self._solo

    def end(self, why: str) -> None:
        """Give up, until the node is started again."""
        self._over, self._judged, self._base = why, None, None
        if self._record is not None:
            self._record = replace(self._record, ended=why)
            with suppress(GobelinError, OSError):
                self._record.write(self._home.shadow)
        self._say(NodeStatus("warning", note=f"the shadow has ended: {why}"))

    # ------------------------------------------------------------ what is said

    def _show(self, step: StepReport) -> None:
        record = self._of_record()
        self._tell(
            "training the solo model",
            step=step.done,
            steps=step.steps,
            samples_per_second=step.samples_per_second,
            loss=step.loss,
            effective_rank=step.effective_rank,
            rounds=record.plan.rounds,
        )

    def _tell(self, note: str, **figures: float) -> None:
        if self._clock() - self._said >= SAY_EVERY_S:
            self._said = self._clock()
            number = self._of_record().plan.round
            self._say(NodeStatus("shadow", round=number, note=note, **figures))  # type: ignore[arg-type]

    def _tale(self) -> str:
        """For an operator, once the shadow rests."""
        record = self._of_record()
        seen = f"the solo model has seen {record.solo_samples:,} of {record.contributed:,} samples"
        if (premium := record.premium()) is None:
            return f"waiting for the next round; {seen}"
        return (
            f"waiting for the next round; {seen}; premium {premium.points:+.1f} "
            f"± {premium.error:.1f} points"
        )

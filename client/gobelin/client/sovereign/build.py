"""The sovereign build: from a consensus and a region's data to a model of its own, signed.

`make_model` is the build itself, of things that are open; `build` opens them, keeps what is
durable while it goes on, and writes the package, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from gobelin.client.sovereign.card import FILE as CARD
from gobelin.client.sovereign.card import card_of
from gobelin.client.sovereign.consensus import Consensus, take_release
from gobelin.client.sovereign.frozen import Kind, fit_frozen
from gobelin.client.sovereign.head import Head
from gobelin.client.sovereign.labels import Task, open_task
from gobelin.client.sovereign.lineage import DataStatement, Lineage, region_key
from gobelin.client.sovereign.lora import Lora
from gobelin.client.sovereign.moves import Mover
from gobelin.client.sovereign.package import SovereignModel, require_free, write_package
from gobelin.client.sovereign.pretrain import STEPS, pretrain
from gobelin.client.sovereign.reporting import reported
from gobelin.client.sovereign.settings import TUNED, BuildSettings, Method, Moves, PretrainSettings
from gobelin.client.sovereign.stage import Progress, Standing
from gobelin.client.sovereign.statement import state_data
from gobelin.client.sovereign.tune import Tuned, calibrate, score, tune
from gobelin.client.sovereign.unfinished import Unfinished, unfinished_at
from gobelin.client.workbench import pick_device
from gobelin.shared.data import Source
from gobelin.shared.errors import BuildError
from gobelin.shared.evaluation.frozen_probe import FEW
from gobelin.shared.model import encoder_of
from gobelin.shared.vector import ParameterVector

Watch = Callable[[Progress], None]

CLEAR = 1.645  # standard errors: one-sided 5 %
JUDGING = ("evaluation", "gate")  # tables that change nothing of the model


@dataclass(frozen=True)
class Given:
    """The region's data, opened."""

    data: Source[Any]
    test: Source[Any] | None = None
    unlabelled: Source[Any] | None = None  # to pre-train on; `data` where there is none
    rehearsal: Source[Any] | None = None

    @cached_property
    def statements(self) -> dict[str, DataStatement]:
        """What the lineage says of what was trained on."""
        named = {"data": self.data, "pre-training": self.unlabelled, "rehearsal": self.rehearsal}
        return {name: state_data(name, s) for name, s in named.items() if s is not None}

    def used(self, settings: PretrainSettings, steps: int) -> Given:
        """What of it a build uses that pre-trains for `steps`: the lineage states nothing else.

        Samples are rehearsed where the settings name some. Raises BuildError where they name what
        was not given, or what nothing would look at.
        """
        named = {
            "data": (settings.data, self.unlabelled),
            "rehearsal": (settings.rehearsal, self.rehearsal),
        }
        for name, (path, source) in named.items():
            if path is None:
                continue
            if not steps:
                what = f"pretrain.{name} names {path}, and nothing is pre-trained"
                raise BuildError(what, f"say pretrain.steps, or leave pretrain.{name} out")
            if source is None:
                what = f"pretrain.{name} names {path}, and its samples were not given"
                raise BuildError(what, f"open them into what is given, or leave {name} out")
        unlabelled = self.unlabelled if steps else None
        rehearsal = self.rehearsal if settings.rehearsal else None
        if unlabelled is self.unlabelled and rehearsal is self.rehearsal:
            return self  # its digests are known
        return replace(self, unlabelled=unlabelled, rehearsal=rehearsal)


@dataclass
class _Made:
    """What has been made so far."""

    vector: ParameterVector
    steps: int = 0
    temperature: float = 1.0
    evaluation: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, bytes | Path] = field(default_factory=dict)

    def take(self, stage: str, standing: Standing, lora: Lora | None) -> None:
        """A stage is done. Adapters are kept where they are all that moved the release."""
        first = not self.steps
        self.adapter = {**lora.files()} if lora is not None and first else {}
        self.vector, self.steps = standing.best, self.steps + standing.best_step
        self.tell(stage, standing)

    def weigh(self, tuned: Tuned, least: float) -> bool:
        """Fine-tuning is done; returns whether it is taken, as what is clearly better is: of few
        labels the best of many looks is better by chance."""
        taken = tuned.gain.exceeds(least)
        if taken:
            self.take("tune", tuned.standing, tuned.lora)
        else:
            self.tell("tune", tuned.standing)
        self.evaluation["tune"] |= {"gained": asdict(tuned.gain), "taken": taken}
        return taken

    def tell(self, stage: str, standing: Standing) -> None:
        """What a stage came to, taken or not."""
        self.evaluation[stage] = {
            "steps": standing.step,
            "best_step": standing.best_step,
            "loss_before": standing.history[0][1],
            "loss": standing.best_loss,
        }


def build(settings: BuildSettings, home: Path, watch: Watch | None = None) -> SovereignModel:
    """Build what the settings say and write it to `settings.out`, signed by the home's key.

    Killed, it goes on where it was when it is called again. Raises GateError where a floor of the
    settings is broken, with the report kept beside `out`, and GobelinErrors of what it is
    given, before any training where that can be; then nothing is written and an older model in
    `out` stays as it was.
    """
    require_free(settings.out)
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    consensus = take_release(
        settings.release, home=home, key=settings.key, unverified=settings.unverified
    )
    kind = consensus.recipe.modality(settings.modality)

    def opened(path: Path | None) -> Source[Any] | None:
        return None if path is None else kind.open(path)

    given = Given(
        kind.open(settings.data),
        opened(settings.test),
        opened(settings.pretrain.data),
        opened(settings.pretrain.rehearsal),
    )
    key = region_key(home)
    plan = _plan(settings, consensus, given)
    with unfinished_at(settings.out, plan) as unfinished:
        model = make_model(consensus, given, settings, unfinished, watch)
        return write_package(settings.out, reported(model, consensus, given, settings), key)


def make_model(
    consensus: Consensus,
    given: Given,
    settings: BuildSettings,
    unfinished: Unfinished | None = None,
    watch: Watch | None = None,
) -> SovereignModel:
    """The model of a build, not written yet; see `build`."""
    method = chosen_method(settings, given)
    steps = settings.pretrain.steps or (STEPS if method == "pretrain" else 0)
    given = given.used(settings.pretrain, steps)
    device = pick_device(settings.compute)
    mover = Mover(consensus.recipe, consensus.vector, settings, device)
    task = None
    if method != "pretrain":
        labels = settings.labels
        task = open_task(
            given.data,
            given.test,
            classes=labels.classes,
            budget=labels.budget,
            held_out=labels.held_out,
            seed=settings.seed,
        )
    made = _Made(consensus.vector)
    if steps:
        data = given.unlabelled or given.data
        standing, lora = pretrain(
            mover, made.vector, data, given.rehearsal, steps, unfinished, watch
        )
        made.take("pretrain", standing, lora)
    head = None if task is None else _head(mover, made, task, method, unfinished, watch)
    model = SovereignModel(
        recipe=consensus.recipe,
        vector=made.vector,
        lineage=Lineage(
            region=settings.region,
            release=consensus.origin,
            data=tuple(given.statements.values()),
            method=method,
            steps=made.steps,
            seeds={"build": settings.seed},
            evaluation=made.evaluation,
            licence=settings.licence,
        ),
        modality=mover.modality,
        head=head,
        class_names=task.names if task else (),
        temperature=made.temperature,
        build={**settings.plain(), "method": method},
    )
    files: dict[str, bytes | Path] = {CARD: card_of(model).encode()}
    return replace(model, files=files | made.adapter)


def chosen_method(settings: BuildSettings, given: Given) -> Method:
    """The method, as it is said or by what there is; see docs/sovereign.md for why.

    With labels all of the model moves, and of that only is taken what is a clear gain.
    """
    if settings.method != "auto":
        return settings.method
    return "pretrain" if given.data.labels is None else "full"


def _head(
    mover: Mover,
    made: _Made,
    task: Task,
    method: Method,
    unfinished: Unfinished | None,
    watch: Watch | None,
) -> Head:
    """The head on the model as it is made so far, which it moves where the method says so.

    A head on a model that nothing has moved by labels is fitted on what was held out, too, in the
    end, where a test set measures. Its temperature is that of the head before: labels that a head
    has learnt say nothing of how sure it may be.
    """
    settings, device = mover.settings, mover.device
    balance, seed = settings.labels.balance, settings.seed
    kind = "attentive" if method == "attentive" else settings.head.kind
    encoder = encoder_of(mover.recipe, made.vector, mover.modality).to(device)
    head = fit_frozen(encoder, task, kind, balance, seed, device)
    made.evaluation["on"] = "test" if task.tested else "held out"
    taken = False
    if method in TUNED:
        # the same head on the model before it was moved
        made.evaluation["frozen"] = asdict(score(encoder, head, task.test, device))
        moves = cast("Moves", method)
        tuned = tune(mover, made.vector, task, head, moves, unfinished, watch)
        taken = made.weigh(tuned, _least_gain(settings, task))
        head = tuned.head if taken else head
        encoder = encoder_of(mover.recipe, made.vector, mover.modality).to(device)
    made.temperature, _ = calibrate(encoder, head, task, balance, device)
    if task.tested and not taken:
        chosen = cast("Kind", head.kind)
        head = fit_frozen(encoder, task.complete, chosen, balance, seed, device)
    made.evaluation |= asdict(score(encoder, head, task.test, device))
    return head.cpu()


def _least_gain(settings: BuildSettings, task: Task) -> float:
    """Standard errors of the gain below which nothing is taken."""
    if settings.tuning.least_gain is not None:
        return settings.tuning.least_gain
    return CLEAR if len(task.labelled) < FEW else 0.0


def _plan(settings: BuildSettings, consensus: Consensus, given: Given) -> dict[str, Any]:
    """All that fixes what a build comes to."""
    stated = {name: said.digest for name, said in given.statements.items()}
    test = None if given.test is None else state_data("test", given.test).digest
    return {
        "settings": {k: v for k, v in settings.plain().items() if k not in JUDGING},
        "release": consensus.vector.digest,
        "recipe": consensus.recipe.digest,
        "data": stated | {"test": test},
    }

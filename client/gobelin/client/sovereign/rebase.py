"""The rebase: a region's build goes over to a newer release, with little training or none.

`rebase_model` is the work itself, of things that are open. What it chooses between (masks, whether
to train at all) it chooses on the labelled samples that the build itself held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gobelin.client.home import MachineSettings
from gobelin.client.sovereign.again import settings_of
from gobelin.client.sovereign.build import Given, Watch, make_model
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.frozen import Kind, fit_frozen
from gobelin.client.sovereign.head import Head
from gobelin.client.sovereign.labels import Task, open_task
from gobelin.client.sovereign.lineage import Lineage, Parent
from gobelin.client.sovereign.lora import FOLDER as ADAPTER
from gobelin.client.sovereign.moves import Mover
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.rebasing import (
    agrees_with_gradient,
    agrees_with_movement,
    align_head,
    carry,
    head_gradient,
)
from gobelin.client.sovereign.settings import TUNED, BuildSettings, Moves
from gobelin.client.sovereign.supervised import logits_of
from gobelin.client.sovereign.tune import score, steps_for, tune
from gobelin.client.sovereign.wrapped import named_in_vector
from gobelin.shared.checkpoint import MANIFEST, read_checkpoint
from gobelin.shared.data import Batch, Source
from gobelin.shared.errors import CheckpointError, RebaseError
from gobelin.shared.evaluation.embed import require_labels
from gobelin.shared.evaluation.probes import accuracy
from gobelin.shared.frame import Frame
from gobelin.shared.model import Encoder, encoder_of
from gobelin.shared.settings import Positive, Settings
from gobelin.shared.vector import ParameterVector

FROZEN = ("linear", "attentive")  # methods that move nothing but the head
Clock = Callable[[], float]  # seconds since a start
Mask = Literal["auto", "none", "movement", "gradient"]


class RebaseSettings(Settings):
    """How a build is carried over."""

    mask: Mask = "none"  # of the delta; auto: the best of all by the loss on held-out samples
    samples: Positive = 500  # that the frame and the gradient are found on, at most
    recovery: Literal["auto", "never", "always"] = "auto"  # auto: where the floor is not held
    floor: Annotated[float, Field(ge=0)] = 1.0  # points of held-out accuracy that may be lost
    share: Annotated[float, Field(gt=0, le=1)] = 0.05  # of the build's steps, to recover in


@dataclass(frozen=True, eq=False)
class Stage:
    """The model at one point of the way, and what it had taken to get there."""

    name: str  # before, rebased, recovered or fresh
    model: SovereignModel
    seconds: float  # all in all, from the start of the rebase; of `fresh`, of that build
    steps: int = 0
    loss: float | None = None  # on held-out samples, where there are labels
    held_out: float | None = None  # accuracy in percent there
    facts: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Plain JSON."""
        names = ("name", "seconds", "steps", "loss", "held_out")
        return {**{name: getattr(self, name) for name in names}, **self.facts}


@dataclass(frozen=True, eq=False)
class Rebased:
    """What a rebase came to: the last stage's model is the one to be signed."""

    stages: tuple[Stage, ...]

    @property
    def model(self) -> SovereignModel:
        """The model at the end of the way."""
        return self.stages[-1].model

    def stage(self, name: str) -> Stage | None:
        """A stage by its name, where it was passed."""
        return next((stage for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True, eq=False)
class Rebaser:
    """A build, the release it was made on, and the one it is to go over to.

    `given` are the region's data, if it has some at hand; `published` is the frame that the new
    release carries to the old one. Raises SchemaMismatchError on releases of another model.
    """

    old: SovereignModel
    release: ParameterVector
    onto: Consensus
    given: Given | None = None
    settings: RebaseSettings = field(default_factory=RebaseSettings)
    published: Frame | None = None
    clock: Clock = time.perf_counter  # in seconds

    def carry(self) -> Rebased:
        """Before, and rebased: no step of training is taken."""
        start = self.clock()
        before = self._stage("before", self.old, start)
        tried = [self._carried(name, mask, start) for name, mask in self._masks().items()]
        best = min(tried, key=lambda stage: stage.loss or 0.0)
        best.facts["tried"] = {str(stage.facts["mask"]): stage.loss for stage in tried}
        return Rebased((before, replace(best, seconds=self.clock() - start)))

    def needs_recovery(self, found: Rebased) -> bool:
        """Whether what was carried over is below the floor, by the held-out samples."""
        before, now = found.stages[0].held_out, found.stages[-1].held_out
        if before is None or now is None:
            return False
        return now < before - self.settings.floor

    def recover(self, found: Rebased, watch: Watch | None = None) -> Rebased:
        """Train for a small share of the build's steps from where the last stage is.

        As the build was: what moved then moves now, and where that was a head alone, it is fitted
        anew. What is worse on held-out samples than the last stage is not taken. Raises RebaseError
        where there are no labels to train on.
        """
        task, at = self.task, found.stages[-1]
        if task is None or at.model.head is None:
            raise RebaseError("nothing to recover on", "give the region's labelled --data")
        start = self.clock() - at.seconds
        head = deepcopy(at.model.head).to(self.old.device)
        if self._build.method in FROZEN:
            stage = self._refitted(task, at, start)
        else:
            stage = self._retrained(task, at, head, start, watch)
        return Rebased((*found.stages, stage))

    def _retrained(
        self, task: Task, at: Stage, head: Head, start: float, watch: Watch | None
    ) -> Stage:
        build = self._build
        steps = build.tuning.steps or steps_for(len(task.train), build.tuning.batch_size)
        few = max(1, round(self.settings.share * steps))
        tuning = build.tuning.model_copy(update={"steps": few, "every": few})
        moves = cast("Moves", build.method if build.method in TUNED else "full")
        some = build.model_copy(update={"tuning": tuning})
        mover = Mover(self.onto.recipe, self.onto.vector, some, self.old.device)
        tuned = tune(mover, at.model.vector, task, head, moves, None, watch)
        model = self._made(tuned.vector, tuned.head.cpu(), tuned.standing.best_step, {})
        return self._stage("recovered", model, start, steps=few, moves=moves)

    def _refitted(self, task: Task, at: Stage, start: float) -> Stage:
        build, device = self._build, self.old.device
        kind = cast("Kind", cast(Head, at.model.head).kind)
        encoder = at.model.encoder
        head = fit_frozen(encoder, task.complete, kind, build.labels.balance, build.seed, device)
        made = self._made(at.model.vector, head.cpu(), 0, {})
        stage = self._stage("recovered", made, start, moves="head")
        if (stage.loss or 0) < (at.loss or 0):
            return stage
        return replace(stage, model=at.model, loss=at.loss, held_out=at.held_out)

    def fresh(self) -> Stage:
        """The same build from the new release: what a rebase is to be compared with."""
        if self.given is None or "method" not in self.old.build:
            what = f"nothing to build anew: the package was made by {self.old.lineage.method}"
            raise RebaseError(what, "give the region's --data, and a package that was built")
        start = self.clock()
        model = make_model(self.onto, self.given, self._build)
        seconds = self.clock() - start  # of the build alone, not of looking at it
        return replace(self._stage("fresh", model, start), seconds=seconds)

    @cached_property
    def task(self) -> Task | None:
        """The labels as the build has split them. What it held out has not moved the model; where a
        test set measured a head alone, that has seen it, before and after the rebase alike."""
        if self.given is None or self.given.data.labels is None or self.old.head is None:
            return None
        labels, seed = self._build.labels, self._build.seed
        return open_task(
            self.given.data,
            self.given.test,
            classes=self.old.class_names,
            budget=labels.budget,
            held_out=labels.held_out,
            seed=seed,
        )

    @cached_property
    def _build(self) -> BuildSettings:
        if "method" in self.old.build:
            return settings_of(self.old, Path("-"), self.old.device)
        nowhere, compute = Path("-"), MachineSettings(device=self.old.device)
        return BuildSettings(release=nowhere, data=nowhere, out=nowhere, compute=compute)

    def _masks(self) -> dict[str, Tensor | None]:
        """Every mask that is to be tried, by name."""
        wanted = self.settings.mask
        delta, movement = self._delta.values, (self.onto.vector - self.release).values
        if wanted == "none" or (self.task is None and wanted == "auto"):
            return {"none": None}
        masks: dict[str, Tensor | None] = {}
        if wanted in ("auto", "none"):
            masks["none"] = None
        if wanted in ("auto", "movement"):
            masks["movement"] = agrees_with_movement(delta, movement)
        if wanted in ("auto", "gradient"):
            masks["gradient"] = agrees_with_gradient(delta, self._gradient())
        return masks

    @cached_property
    def _delta(self) -> ParameterVector:
        return self.old.vector - self.release

    @cached_property
    def _samples(self) -> Batch:
        """What the frame is found on, on the device."""
        assert self.given is not None
        source: Source[Any] = self.given.data if self.task is None else self.task.train
        rows = np.arange(min(self.settings.samples, len(source)))
        samples: Batch = source.read(rows).to(self.old.device)
        return samples

    @cached_property
    def _own_tokens(self) -> Tensor:
        """The build's own tokens of them (N, T, D)."""
        return self.old.tokens(self._samples)

    def _carried(self, name: str, mask: Tensor | None, start: float) -> Stage:
        moved = carry(self._delta, self.onto.vector, mask)
        model = self._made(moved.vector, None, 0, {"mask": name})
        frame = None
        if self.old.head is not None:
            frame = self._frame(model.encoder)
            head = self.old.head if frame is None else align_head(self.old.head, frame)
            model = replace(model, head=head, class_names=self.old.class_names)
        if mask is None:  # the same update of low rank, now of this release
            files = {n: f for n, f in self.old.files.items() if n.startswith(f"{ADAPTER}/")}
            model = replace(model, files=files)
        aligned = frame is not None
        return self._stage("rebased", model, start, mask=name, kept=moved.kept, aligned=aligned)

    def _frame(self, encoder: Encoder) -> Frame | None:
        """The frame from the carried model's tokens to the build's own: found on the region's
        samples, or else the published one."""
        if self.given is None:
            return self.published
        with torch.no_grad():
            mine = encoder.tokens(encoder.prepare(self._samples)).float()
        return Frame.between(mine, self._own_tokens)

    def _gradient(self) -> Tensor:
        """The gradient (P,) of the regional loss where the whole delta would lead."""
        task, head = self.task, self.old.head
        if task is None or head is None:
            what = "a mask by the gradient needs a head and labels"
            raise RebaseError(what, "give the region's labelled --data, or another --mask")
        moved = carry(self._delta, self.onto.vector).vector
        encoder = encoder_of(self.onto.recipe, moved, self.old.modality).to(self.old.device).eval()
        frame = self._frame(encoder)
        rows = np.arange(min(self.settings.samples, len(task.train)))
        labels = require_labels(task.train)[torch.from_numpy(rows)].to(self.old.device)
        prepared = encoder.prepare(task.train.read(rows).to(self.old.device))
        reader = head if frame is None else align_head(head, frame)
        found = head_gradient(encoder, reader.to(self.old.device), prepared, labels)
        tensors = {name: torch.zeros_like(own) for name, own in self._delta.tensors().items()}
        names = {id(p): n for n, p in named_in_vector(encoder, self._modality).items()}
        for name, parameter in encoder.named_parameters():
            tensors[names[id(parameter)]] = found[name].cpu()
        return ParameterVector.of_tensors(self._delta.schema, tensors).values

    @property
    def _modality(self) -> str:
        return self.onto.recipe.pick(self.old.modality)

    def _made(
        self, vector: ParameterVector, head: Any, steps: int, how: dict[str, Any]
    ) -> SovereignModel:
        """The model on the new release, with what its lineage says."""
        before = self.old.lineage
        data = before.data if self.given is None else tuple(self.given.statements.values())
        lineage = Lineage(
            region=before.region,
            release=self.onto.origin,
            data=data,
            method="rebase",
            steps=steps,
            seeds=before.seeds,
            parents=(
                Parent(kind="package", digest=self.old.digest, name=before.method),
                Parent(kind="release", digest=self.onto.vector.digest),
            ),
            evaluation={"rebase": how},
            licence=before.licence,
        )
        return replace(
            self.old,
            recipe=self.onto.recipe,
            vector=vector,
            lineage=lineage,
            head=head,
            class_names=self.old.class_names if head is not None else (),
            files={},
            folder=None,
            signed_by="",
        )

    def _stage(
        self, name: str, model: SovereignModel, start: float, steps: int = 0, **facts: Any
    ) -> Stage:
        """The stage, looked at on the held-out samples where there are some."""
        task = self.task
        if task is None or model.head is None:
            return Stage(name, model, self.clock() - start, steps, facts=facts)
        head = model.head.to(self.old.device)
        logits, labels = logits_of(model.encoder, head, task.held, self.old.device)
        loss = float(torch.nn.functional.cross_entropy(logits / model.temperature, labels))
        right = accuracy(logits.argmax(dim=1), labels)
        return Stage(name, model, self.clock() - start, steps, loss, right, facts)


def find_release(digest: str, places: list[Path]) -> ParameterVector:
    """The release with a vector of this digest, among folders and the folders in them.

    A release is believed by its digest, which the package's signed lineage has. Raises RebaseError
    where it is not there.
    """
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else []
        for folder in [place, *inside]:
            if not (folder / MANIFEST).is_file():
                continue
            try:
                vector = read_checkpoint(folder).vector
            except CheckpointError:
                continue
            if vector.digest == digest:
                return vector
    raise RebaseError(
        f"the release that the package was built on, {digest[:16]}…, is not here",
        "pass its folder as --from",
    )


def tested(stage: Stage, task: Task, device: str) -> float:
    """A stage's accuracy in percent on the task's test samples."""
    assert stage.model.head is not None
    return score(stage.model.encoder, stage.model.head.to(device), task.test, device).accuracy

"""A stage of a build: local steps in short runs, with a look at held-out samples after each.

The trainer is a node's own; a run is to it what a round is. What is kept after each look is enough
to go on from it to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gobelin.client.sovereign.unfinished import Unfinished
from gobelin.client.trainer import ADDED, LocalSteps, LocalTrainer, StepReport
from gobelin.shared.model import Encoder
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

Look = Callable[[Encoder], float]  # the loss on held-out samples, of the model as it is


@dataclass(frozen=True)
class Plan:
    """How long a stage trains, at most."""

    name: str
    steps: int
    every: int  # steps between two looks
    patience: int  # looks without anything gained after which it ends
    seed: int


@dataclass(frozen=True)
class Progress:
    """What is told after every step."""

    stage: str
    step: int  # done
    steps: int  # at most
    loss: float
    samples_per_second: float
    best: float  # held-out loss so far
    best_step: int


@dataclass(frozen=True)
class Standing:
    """Where a stage stands: the model as it is, and the best one so far."""

    vector: ParameterVector
    state: Mapping[str, Tensor]  # of the trainer
    best: ParameterVector
    best_added: Mapping[str, Tensor]  # what the objective trained, then
    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    looks: int = 0  # since the best
    done: bool = False
    history: tuple[tuple[int, float], ...] = field(default=())  # step, held-out loss

    def facts(self) -> dict[str, Any]:
        """Without tensors, as plain JSON."""
        numbers = ("step", "best_step", "best_loss", "looks", "done")
        return {
            **{n: getattr(self, n) for n in numbers},
            "history": [list(h) for h in self.history],
        }


def train_stage(
    trainer: LocalTrainer,
    base: ParameterVector,
    plan: Plan,
    look: Look,
    unfinished: Unfinished | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Standing:
    """Train from `base` until nothing is gained on held-out samples; the best model is in `best`.

    The base counts as seen at step 0: what is worse on held-out samples than it is never taken.
    Raises DivergedError, DataError.
    """
    standing = _resumed(trainer, base, plan, unfinished)
    if standing is None:
        base.load_into(trainer.model)
        first, added = look(trainer.encoder), _added(trainer)
        standing = Standing(
            base, trainer.state(), base, added, best_loss=first, history=((0, first),)
        )
    while not standing.done:
        standing = _run(trainer, plan, look, standing, watch)
        if unfinished is not None:
            unfinished.save(plan.name, trainer.recipe, standing)
    return standing


def added_under(standing: Standing, prefix: str, device: str) -> dict[str, Tensor]:
    """Of what the objective trained, at its best, what is named so, by the rest of its name."""
    added = standing.best_added.items()
    return {n.removeprefix(prefix): t.to(device) for n, t in added if n.startswith(prefix)}


def _run(
    trainer: LocalTrainer,
    plan: Plan,
    look: Look,
    before: Standing,
    watch: Callable[[Progress], None] | None,
) -> Standing:
    """One run of local steps, and the look after it."""

    def tell(report: StepReport) -> None:
        if watch is not None:
            told = (report.loss, report.samples_per_second, before.best_loss, before.best_step)
            watch(Progress(plan.name, report.step + 1, plan.steps, *told))

    steps = min(plan.every, plan.steps - before.step)
    seeds = derive_seed(plan.seed, plan.name, "slices"), derive_seed(plan.seed, plan.name, "own")
    local = LocalSteps(before.step, steps, plan.steps, *seeds)
    vector, _ = trainer.train(before.vector, local, tell)
    loss, step = look(trainer.encoder), before.step + steps
    history = (*before.history, (step, loss))
    now = replace(before, vector=vector, state=trainer.state(), step=step, history=history)
    if loss < before.best_loss:
        now = replace(
            now, best=vector, best_added=_added(trainer), best_step=step, best_loss=loss, looks=0
        )
    else:
        now = replace(now, looks=before.looks + 1)
    return replace(now, done=step >= plan.steps or now.looks >= plan.patience)


def _resumed(
    trainer: LocalTrainer, base: ParameterVector, plan: Plan, unfinished: Unfinished | None
) -> Standing | None:
    """Where a run that was ended has left the stage, the trainer put there."""
    kept = unfinished.load(plan.name) if unfinished is not None else None
    if kept is None:
        return None
    trainer.load_state(kept.extra["trainer"])
    said = dict(kept.facts)
    history = tuple((int(step), float(loss)) for step, loss in said.pop("history"))
    best = ParameterVector.of_tensors(base.schema, kept.extra["best"])
    added = kept.extra["added"]
    return Standing(kept.vector, kept.extra["trainer"], best, added, **said, history=history)


def _added(trainer: LocalTrainer) -> dict[str, Tensor]:
    """What the objective trains, as it is now, by its own names."""
    prefix = f"{ADDED}."
    state = trainer.state()
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

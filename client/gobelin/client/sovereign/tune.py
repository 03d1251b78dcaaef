"""Fine-tuning on labels: from the head that fits the frozen model, so that nothing is undone first.

LP-FT, arXiv:2202.10054: a head that knows nothing yet pulls good features apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.client.sovereign.head import Head
from gobelin.client.sovereign.labels import Balance, LabelledStream, Task
from gobelin.client.sovereign.lora import Lora
from gobelin.client.sovereign.moves import Mover
from gobelin.client.sovereign.settings import Moves, TuningSettings
from gobelin.client.sovereign.stage import Plan, Progress, Standing, added_under, train_stage
from gobelin.client.sovereign.supervised import Supervised, logits_of
from gobelin.client.sovereign.unfinished import Unfinished
from gobelin.shared.data import Source
from gobelin.shared.evaluation.calibration import calibrated
from gobelin.shared.evaluation.probes import accuracy
from gobelin.shared.model import Encoder, encoder_of
from gobelin.shared.recipe import InnerRecipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

STAGE = "tune"
EPOCHS, FEWEST, MOST = 20, 200, 2_000  # steps where none are said
LOOKS = 20  # at the held-out part, where it is not said how often
RATES = {"lora": 1e-2}
RATE = 1e-3  # of all others


@dataclass(frozen=True)
class Gain:
    """What one model has over another on the same held-out samples, in nats a sample."""

    mean: float
    error: float | None  # standard error of the mean, of paired differences; None of one sample

    def exceeds(self, least: float) -> bool:
        """Whether it is more than so many of its standard errors; of one sample nobody knows."""
        if not least:
            return self.mean > 0
        return self.error is not None and self.mean > least * self.error


def gain_of(before: Tensor, after: Tensor) -> Gain:
    """The gain from losses (H,) before to those after."""
    gained = before - after
    error = float(gained.std()) / math.sqrt(len(gained)) if len(gained) > 1 else None
    return Gain(float(gained.mean()), error)


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to: the best model and its head, merged adapters and the run."""

    vector: ParameterVector
    head: Head
    lora: Lora | None
    standing: Standing
    gain: Gain  # over where it started


def tune(
    mover: Mover,
    start: ParameterVector,
    task: Task,
    head: Head,
    moves: Moves,
    unfinished: Unfinished | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Tuned:
    """Move `start` and a copy of a head that fits it, on the task's labels."""
    settings, labels, seed = mover.settings.tuning, mover.settings.labels, mover.settings.seed

    def losses(vector: ParameterVector) -> Tensor:
        encoder = encoder_of(mover.recipe, vector, mover.modality).to(mover.device)
        return held_losses(encoder, head, task, labels.balance, mover.device)

    before, head = losses(start), deepcopy(head)
    balanced = labels.balance == "sampling"
    weights = task.weights(labels.balance)
    objective = Supervised(
        mover.recipe.objective_of(mover.settings.modality).recipe, head, weights, settings.augment
    )
    stream = LabelledStream(
        task.train, settings.batch_size, derive_seed(seed, "tuning batches"), balanced
    )
    trainer, lora = mover.trainer(
        moves, objective, stream.batch, _inner(settings, moves), start, settings.anchor
    )
    steps = settings.steps or steps_for(len(task.train), settings.batch_size)
    every = settings.every or max(1, steps // LOOKS)
    plan = Plan(STAGE, steps, every, settings.patience, seed)

    def look(encoder: Encoder) -> float:
        return calibrate(encoder, head, task, labels.balance, mover.device)[1]

    standing = train_stage(trainer, start, plan, look, unfinished, watch)
    best = added_under(standing, "head.", mover.device)
    head.load_state_dict(best | dict(head.named_buffers()))
    if lora is not None:
        lora.load(added_under(standing, "lora.", mover.device))
    head.eval().requires_grad_(False)
    gained = gain_of(before, losses(standing.best))
    return Tuned(standing.best, head, lora, standing, gained)


def steps_for(labels: int, batch_size: int) -> int:
    """Steps for so many labels, where none are said: EPOCHS over them, within bounds."""
    return max(FEWEST, min(MOST, EPOCHS * labels // batch_size))


def calibrate(
    encoder: Encoder, head: Head, task: Task, balance: Balance, device: str
) -> tuple[float, float]:
    """The temperature that fits the held-out labels best, and the loss with it."""
    return calibrated(*logits_of(encoder, head, task.held, device), _weights(task, balance))


def held_losses(encoder: Encoder, head: Head, task: Task, balance: Balance, device: str) -> Tensor:
    """The loss (H,) of each held-out sample at the temperature that fits them best."""
    logits, truth = logits_of(encoder, head, task.held, device)
    weights = _weights(task, balance)
    temperature, _ = calibrated(logits, truth, weights)
    losses = F.cross_entropy(logits / temperature, truth, weights, reduction="none")
    return losses if weights is None else losses / weights[truth].mean()


def _weights(task: Task, balance: Balance) -> Tensor | None:
    """Of each class in a loss that is looked at: here weights stand for balanced batches, too."""
    return task.weights("none" if balance == "none" else "loss")


@dataclass(frozen=True)
class Score:
    """How well a model with a head does, in percent."""

    accuracy: float
    balanced: float  # the mean over classes of the share told right
    samples: int


def score(encoder: Encoder, head: Head, source: Source[Any], device: str) -> Score:
    """The score on all samples of a labelled source."""
    logits, truth = logits_of(encoder, head, source, device)
    predicted = logits.argmax(dim=1)
    recalls = [accuracy(predicted[truth == k], truth[truth == k]) for k in torch.unique(truth)]
    return Score(accuracy(predicted, truth), sum(recalls) / len(recalls), len(truth))


def _inner(settings: TuningSettings, moves: Moves) -> InnerRecipe:
    lr = settings.lr or RATES.get(moves, RATE)
    return InnerRecipe(
        batch_size=settings.batch_size,
        lr=lr,
        final_lr=lr / 100,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
    )

"""Continued private pre-training: the recipe's own objective on a region's samples, unlabelled.

Against forgetting, public or older samples are rehearsed in every batch, or the model is held to
the release by L2-SP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gobelin.client.reading import Batches
from gobelin.client.sovereign.lora import Lora
from gobelin.client.sovereign.moves import Mover
from gobelin.client.sovereign.stage import (
    Look,
    Plan,
    Progress,
    Standing,
    added_under,
    train_stage,
)
from gobelin.client.sovereign.unfinished import Unfinished
from gobelin.shared.data import Batch, BatchStream, Source, Subset, Trajectories
from gobelin.shared.data.partition import hold_out
from gobelin.shared.errors import BuildError
from gobelin.shared.evaluation.embed import at_rest
from gobelin.shared.evaluation.held_out_loss import held_out_loss
from gobelin.shared.model import Encoder
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

STAGE = "pretrain"
STEPS = 300  # where the method is to pre-train and nothing else is said
FEWEST = 20  # samples, below which nothing is learnt of a region but these


def pretrain(
    mover: Mover,
    start: ParameterVector,
    data: Source[Any],
    rehearsal: Source[Any] | None,
    steps: int,
    unfinished: Unfinished | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> tuple[Standing, Lora | None]:
    """Train `start` on a region's samples; raises BuildError on too few of them."""
    settings, recipe, seed = mover.settings.pretrain, mover.recipe, mover.settings.seed
    if len(data) < FEWEST:
        what = f"{len(data)} samples to pre-train on are too few"
        raise BuildError(what, f"give {FEWEST} at least, or leave pretrain out")
    everything = np.arange(len(data), dtype=np.int64)
    kept, held = hold_out(everything, settings.held_out, derive_seed(seed, "pretrain held out"))
    held = held if len(held) >= 2 else kept
    inner = recipe.inner
    inner = inner.model_copy(update={"lr": settings.lr or inner.lr / 2})
    batches = rehearsed(
        Subset(data, kept), rehearsal, inner.batch_size, settings.rehearsal_share, seed
    )
    objective = recipe.objective_of(mover.settings.modality)
    trainer, lora = mover.trainer(settings.moves, objective, batches, inner, start, settings.anchor)
    plan = Plan(STAGE, steps, settings.every, settings.patience, seed)
    look = _look(mover, Subset(data, held), seed)
    standing = train_stage(trainer, start, plan, look, unfinished, watch)
    if lora is not None:
        lora.load(added_under(standing, "lora.", mover.device))
    return standing, lora


def rehearsed(
    own: Source[Any], public: Source[Any] | None, batch_size: int, share: float, seed: int
) -> Batches:
    """Batches of own samples, or of own and public ones, `share` of them public."""
    others = 0 if public is None else min(batch_size - 1, max(1, round(share * batch_size)))
    mine = BatchStream(own, batch_size - others, derive_seed(seed, "pretrain batches"))
    if public is None:
        return mine.batch
    theirs = BatchStream(public, others, derive_seed(seed, "rehearsal batches"))
    return lambda step: joined(mine.batch(step), theirs.batch(step))


def joined(one: Batch, other: Batch) -> Batch:
    """Raw samples of both, one after the other."""
    if isinstance(one, Trajectories) and isinstance(other, Trajectories):
        return Trajectories(
            torch.cat([one.observations, other.observations]),
            torch.cat([one.actions, other.actions]),
        )
    assert isinstance(one, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    return torch.cat([one, other])


def _look(mover: Mover, held: Source[Any], seed: int) -> Look:
    """The recipe's own loss on held-out samples."""
    objective = mover.recipe.objective_of(mover.settings.modality)

    def look(encoder: Encoder) -> float:
        objective.begin(encoder)
        with at_rest(encoder):
            return held_out_loss(encoder, objective, held, seed=seed, device=mover.device)

    return look

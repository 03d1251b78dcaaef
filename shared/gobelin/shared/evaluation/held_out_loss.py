"""The objective's loss on samples a model was not trained on: how well it does its own task."""

from __future__ import annotations

import torch

from gobelin.shared.data import BatchStream, Source
from gobelin.shared.model import Encoder
from gobelin.shared.objective import Draw, Objective, ObjectiveRecipe
from gobelin.shared.seeds import derive_seed, generator_of

BATCHES = 8


def held_out_loss(
    encoder: Encoder,
    objective: Objective[ObjectiveRecipe],
    source: Source,
    *,
    seed: int = 0,
    batches: int = BATCHES,
    device: torch.device | str = "cpu",
) -> float:
    """Mean loss over a few batches of `source`; the same views and slices for every model.

    Batches have the objective's reference size, or the loss of small members would not compare.
    """
    size = objective.recipe.reference_batch
    stream = BatchStream(source, size, derive_seed(seed, "held out"))
    total = 0.0
    with torch.no_grad():
        for step in range(batches):
            views = generator_of(seed, "held out", step)
            draw = Draw(views, derive_seed(seed, "held out slices", step))
            parts, _ = objective(encoder, stream.batch(step).to(device), draw)
            total += float(parts.total)
    return total / batches

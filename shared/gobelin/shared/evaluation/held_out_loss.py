"""The JEPA loss on images a model was not trained on: how well it does its own task."""

from __future__ import annotations

import torch

from gobelin.shared.augment import MultiCrop
from gobelin.shared.data import BatchStream, ImageSource
from gobelin.shared.model import Jepa
from gobelin.shared.objective import build_objective
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed, generator_of

BATCHES = 8


def held_out_loss(
    model: Jepa,
    recipe: Recipe,
    source: ImageSource,
    *,
    seed: int = 0,
    batches: int = BATCHES,
    device: torch.device | str = "cpu",
) -> float:
    """Mean loss over a few batches of `source`; the same views and slices for every model.

    Batches have the recipe's reference size, or the loss of small members would not compare.
    """
    stream = BatchStream(source, recipe.objective.reference_batch, derive_seed(seed, "held out"))
    crop = MultiCrop(recipe.views, recipe.tokenizer.image_size)
    objective = build_objective(recipe.objective)
    total = 0.0
    with torch.no_grad():
        for step in range(batches):
            views = crop(stream.batch(step).to(device), generator_of(seed, "held out", step))
            _, projections = model.embed_views(views)
            slices = derive_seed(seed, "held out slices", step)
            total += float(objective(projections, recipe.views.global_views, slices).total)
    return total / batches

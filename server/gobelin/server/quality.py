"""Quality evidence the aggregator measures itself: does a contribution still tell images apart?

A collapsed encoder can have a low loss and an ordinary norm, so neither shows it; its features
do. They are measured on images made from a seed, so the aggregator needs no data of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gobelin.server.admission import Refusal
from gobelin.shared.augment import normalise
from gobelin.shared.health import deviations, effective_rank
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

IMAGES = 16  # a ViT-S takes about 2 s for them on one core, at every contribution
LEAST_RANK = 0.1  # of the base's effective rank
LEAST_DEVIATION = 0.01  # of the base's mean standard deviation


class CollapseGate:
    """Compares a contributed model's features with the base's on the same made-up images."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self._model = build_jepa(recipe, seed).eval()
        self._images = made_up_images(recipe, seed)
        self._base: tuple[str, float, float] = ("", 0.0, 0.0)  # digest, rank, deviation

    def judge(self, base: ParameterVector, delta: ParameterVector) -> Refusal | None:
        """A refusal when base + delta has collapsed where the base has not."""
        if self._base[0] != base.digest:
            self._base = (base.digest, *self._measure(base))
        _, base_rank, base_deviation = self._base
        rank, deviation = self._measure(base + delta)
        if rank < LEAST_RANK * base_rank or deviation < LEAST_DEVIATION * base_deviation:
            found = f"effective rank {rank:.3g}, the base's is {base_rank:.3g}"
            return Refusal("collapse", f"{found}; deviation {deviation:.3g}, {base_deviation:.3g}")
        return None

    @torch.no_grad()
    def _measure(self, vector: ParameterVector) -> tuple[float, float]:
        """Effective rank and mean deviation of pooled features; zeros if they are not finite."""
        vector.load_into(self._model)
        features = self._model.features(normalise(self._images)).float()
        if not bool(torch.isfinite(features).all()):
            return 0.0, 0.0
        return effective_rank(features), float(deviations(features).mean())


def made_up_images(recipe: Recipe, seed: int) -> Tensor:
    """Smooth random patterns, uint8 (IMAGES, C, S, S): coarse noise, enlarged."""
    size, channels = recipe.tokenizer.image_size, recipe.tokenizer.channels
    coarse = torch.rand(IMAGES, channels, 5, 5, generator=generator_of(seed, "collapse gate"))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (255 * fine).to(torch.uint8)

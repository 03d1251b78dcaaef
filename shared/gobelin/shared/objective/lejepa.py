"""The LeJEPA objective: views of one sample agree, and all embeddings together are Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.objective import Draw, LeJepaRecipe, LossParts, Objective

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.model.encoder import Encoder


class LeJepa(Objective[LeJepaRecipe]):
    """L = (1 − λ) · invariance + λ · mean over views of SIGReg (arXiv:2511.08544, Alg. 2)."""

    Table: ClassVar[type[LeJepaRecipe]] = LeJepaRecipe
    coupled = (
        "SIGReg tests a batch as a whole, and without it (weight = 0) the views of all samples "
        "agree in one point"
    )

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of augmented views of the batch; features are those of the first view."""
        views = encoder.modality.views(batch, draw.views)
        features, projections = encoder.embed_views(views.stacks)
        parts = self.loss(projections, views.leading, draw)
        return parts, features[0].detach()

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of views as training makes them: what the objective tests is what is described."""
        views = encoder.modality.views(batch, generator)
        return encoder.embed_views(views.stacks)[1].flatten(0, 1)  # (V B, D)

    def loss(self, z: Tensor, leading: int, draw: Draw) -> LossParts:
        """Loss parts of projections z (V, N, D), whose first `leading` views make the centre."""
        z = z.float()
        centre = z[:leading].mean(dim=0)  # (N, D); gradient flows through it
        prediction = (centre - z).square().mean()
        test = AntiCollapse.of(z, self.recipe, draw)
        weight = self.recipe.weight
        total = (1 - weight) * prediction + weight * test.weighed
        return test.parts(total, prediction)

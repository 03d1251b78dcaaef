"""The LeJEPA objective: views of one sample agree, and all embeddings together are Gaussian."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gobelin.shared.objective.objective import Draw, LeJepaRecipe, LossParts, Objective
from gobelin.shared.objective.offset import Offset
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg

if TYPE_CHECKING:
    from gobelin.shared.data import Batch
    from gobelin.shared.model.encoder import Encoder


class LeJepa(Objective[LeJepaRecipe]):
    """L = (1 − λ) · invariance + λ · mean over views of SIGReg (arXiv:2511.08544, Alg. 2)."""

    Table: ClassVar[type[LeJepaRecipe]] = LeJepaRecipe

    def __call__(self, encoder: Encoder, batch: Batch, draw: Draw) -> tuple[LossParts, Tensor]:
        """Of augmented views of the batch; features are those of the first view."""
        views = encoder.modality.views(batch, draw.views)
        features, projections = encoder.embed_views(views.stacks)
        parts = self.loss(projections, views.leading, draw.slices, draw.offset)
        return parts, features[0].detach()

    def projections(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """Of views as training makes them: what the objective tests is what is described."""
        views = encoder.modality.views(batch, generator)
        return encoder.embed_views(views.stacks)[1].flatten(0, 1)  # (V B, D)

    def loss(self, z: Tensor, leading: int, seed: int, offset: Offset | None = None) -> LossParts:
        """Loss parts of projections z (V, N, D), whose first `leading` views make the centre.

        `seed` picks the slices; nodes that share it test along the same directions. With an
        `offset` the test is one of all nodes' data.
        """
        z = z.float()
        centre = z[:leading].mean(dim=0)  # (N, D); gradient flows through it
        prediction = (centre - z).square().mean()
        recipe = self.recipe
        if offset is None:
            slices, shift = directions(seed, z.shape[-1], recipe.slices, z.device), None
        else:
            slices, shift = offset.draw(
                seed, z.shape[-1], recipe.slices, recipe.knots, recipe.t_max, z.device
            )
        statistic = sigreg(z, slices, recipe.knots, recipe.t_max, shift)
        collapse = collapse_score(statistic, z.shape[1])
        # T grows with N, so a node with a larger batch would regularise harder.
        anti_collapse = collapse * recipe.reference_batch
        total = (1 - recipe.weight) * prediction + recipe.weight * anti_collapse
        return LossParts(total, prediction.detach(), anti_collapse.detach(), collapse.detach())

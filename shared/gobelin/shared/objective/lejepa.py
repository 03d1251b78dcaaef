"""The LeJEPA objective: views of one image agree, and all embeddings together are Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gobelin.shared.objective.offset import Offset
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg
from gobelin.shared.recipe import ObjectiveRecipe


@dataclass(frozen=True)
class LossParts:
    """What a step minimises and what it is made of; scalars (), `total` with its graph."""

    total: Tensor
    prediction: Tensor  # how far views are from their centre
    anti_collapse: Tensor  # the SIGReg statistic at the recipe's reference batch
    collapse: Tensor  # T / N, see `collapse_score`


class LeJepa:
    """L = (1 − λ) · invariance + λ · mean over views of SIGReg (arXiv:2511.08544, Alg. 2)."""

    def __init__(self, recipe: ObjectiveRecipe) -> None:
        self.recipe = recipe

    def __call__(
        self, z: Tensor, global_views: int, seed: int, offset: Offset | None = None
    ) -> LossParts:
        """Loss parts of projections z (V, N, D), whose first `global_views` views are global.

        `seed` picks the slices; nodes that share it test along the same directions. With an
        `offset` the test is one of all nodes' data.
        """
        z = z.float()
        centre = z[:global_views].mean(dim=0)  # (N, D); gradient flows through it
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

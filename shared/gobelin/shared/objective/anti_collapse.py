"""Anti-collapse: SIGReg of a step's projections, as objectives weigh it and health tells it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gobelin.shared.objective.objective import Draw, LossParts, ObjectiveRecipe
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg


@dataclass(frozen=True)
class AntiCollapse:
    """Scalars () with their graph."""

    weighed: Tensor  # T at the recipe's reference batch
    score: Tensor  # T / N, see `collapse_score`

    @classmethod
    def of(cls, z: Tensor, recipe: ObjectiveRecipe, draw: Draw) -> AntiCollapse:
        """Of projections z (N, D) or (V, N, D), mean over V, under the slices of the draw.

        With an offset the test is one of all nodes' data, with ranks one of all ranks' samples,
        of which each must have as many.
        """
        dim, samples = z.shape[-1], z.shape[-2]
        if draw.offset is None:
            slices, shift = directions(draw.slices, dim, recipe.slices, z.device), None
        else:
            slices, shift = draw.offset.draw(
                draw.slices, dim, recipe.slices, recipe.knots, recipe.t_max, z.device
            )
        statistic = sigreg(z, slices, recipe.knots, recipe.t_max, shift, draw.ranks)
        if draw.ranks is not None:
            samples *= draw.ranks.size
        score = collapse_score(statistic, samples)
        # T grows with N, so a node with a larger batch would regularise harder.
        return cls(score * recipe.reference_batch, score)

    def parts(self, total: Tensor, prediction: Tensor) -> LossParts:
        """Beside a total and a prediction error, each () with its graph."""
        scalars = prediction, self.weighed, self.score
        return LossParts(total, *(scalar.detach() for scalar in scalars))

"""Objectives: what local steps minimise, prediction plus λ · anti-collapse."""

from typing import Protocol

from torch import Tensor

from gobelin.shared.objective.lejepa import LeJepa, LossParts
from gobelin.shared.objective.moments import MomentOffset, Moments
from gobelin.shared.objective.offset import Offset
from gobelin.shared.recipe import ObjectiveRecipe


class Objective(Protocol):
    """From projections z (V, N, D), global views first, and a slice seed to a loss."""

    def __call__(
        self, z: Tensor, global_views: int, seed: int, offset: Offset | None = None
    ) -> LossParts:
        """The loss and its parts; with an offset the test is one of all nodes' data."""
        ...


OBJECTIVES = {"lejepa": LeJepa}


def build_objective(recipe: ObjectiveRecipe) -> Objective:
    """The objective a recipe names."""
    return OBJECTIVES[recipe.kind](recipe)


__all__ = [
    "OBJECTIVES",
    "LossParts",
    "MomentOffset",
    "Moments",
    "Objective",
    "Offset",
    "build_objective",
]

"""Objectives: what local steps minimise, prediction plus λ · anti-collapse."""

from gobelin.shared.objective.moments import MomentOffset, Moments
from gobelin.shared.objective.objective import (
    OBJECTIVES,
    Draw,
    LossParts,
    Objective,
    ObjectiveRecipe,
)
from gobelin.shared.objective.offset import Offset

__all__ = [
    "OBJECTIVES",
    "Draw",
    "LossParts",
    "MomentOffset",
    "Moments",
    "Objective",
    "ObjectiveRecipe",
    "Offset",
]

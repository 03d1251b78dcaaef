"""The toy recipe with objectives that are sums over samples."""

from __future__ import annotations

from typing import Any

from gobelin.shared.recipe import Recipe, load_recipe

PREDICTOR = {"dim": 16, "depth": 1, "heads": 2}


def toy(**tables: dict[str, Any]) -> Recipe:
    """The toy recipe with other keys in some tables."""
    facts = load_recipe("toy").model_dump(mode="json")
    return Recipe.model_validate({**facts, **tables})


I_JEPA = {"kind": "masked", "teacher": True, "weight": 0, "predictor": PREDICTOR}
MASKED = toy(objective=I_JEPA)
BYOL = toy(
    objective={"kind": "byol", "hidden": 16}, projector={"hidden": 16, "out": 8, "norm": "layer"}
)

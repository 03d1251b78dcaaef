"""Parity: the loss of every objective on a device, beside that of the CPU, both in fp32."""

from __future__ import annotations

from typing import Any

import torch

from bench.image_probe import OBJECTIVES as ON_IMAGES
from bench.image_probe import recipe_of
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.errors import GobelinError
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import OBJECTIVES
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

BATCH = 64


def parity(device: torch.device) -> dict[str, Any]:
    """Relative difference of the first step's loss from the CPU's, by objective, and the largest.

    Every objective of the registry has to be among them: GobelinError if one is missing.
    """
    recipes = {name: recipe_of(name, "tiny") for name in ON_IMAGES}
    recipes["next_latent"] = load_recipe("two_room")
    missing = set(OBJECTIVES.kinds) - {r.objective_of().recipe.kind for r in recipes.values()}
    if missing:
        raise GobelinError(f"no recipe here trains {', '.join(sorted(missing))}", "add one")
    found = {}
    for name, recipe in recipes.items():
        here, there = first_loss(recipe, torch.device("cpu")), first_loss(recipe, device)
        found[name] = {"cpu": here, "device": there, "rel_error": abs(there - here) / abs(here)}
    return {"max_rel_error": max(one["rel_error"] for one in found.values()), **found}


def first_loss(recipe: Recipe, device: torch.device) -> float:
    """The loss of the first step of a node's training from the seed's model."""
    batch = recipe.modality().made_up(BATCH, generator_of(0, "parity batch"))
    trainer = LocalTrainer(recipe, lambda step: batch, str(device))
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    _, report = trainer.train(base, LocalSteps(0, 1, 100, seed=0, node_seed=1))
    return report.loss

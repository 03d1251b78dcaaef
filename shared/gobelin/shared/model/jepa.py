"""The JEPA: the tokenizers of all modalities, the trunk, the projector and what predicts.

These are also the groups of the parameter vector. What lies under the name of a modality belongs
to the members who have its data; the rest is everybody's.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from gobelin.shared.model.encoder import Encoder
from gobelin.shared.model.projector import Projector
from gobelin.shared.model.trunk import Block, Trunk
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector


class Jepa(nn.Module):
    """All that a federation trains; `encoder` is the way of one modality through it."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        modalities = {name: recipe.modality(name) for name in sorted(recipe.modalities)}
        self.tokenizers = nn.ModuleDict(
            {name: modality.tokenizer(recipe.trunk.dim) for name, modality in modalities.items()}
        )
        self.trunk = Trunk(recipe.trunk)
        self.projector = Projector(recipe.projector, recipe.trunk.dim)
        predictors = {
            name: recipe.objective_of(name).predictor(recipe, modality)
            for name, modality in modalities.items()
        }
        self.predictors = nn.ModuleDict({n: p for n, p in predictors.items() if p is not None})
        self._modalities = modalities

    def encoder(self, modality: str | None = None) -> Encoder:
        """One modality's way through the model, the only one's if None; raises ConfigError."""
        name = self.recipe.pick(modality)
        predictor = dict(self.predictors.items()).get(name)
        return Encoder(
            self._modalities[name], self.tokenizers[name], self.trunk, self.projector, predictor
        )


def build_jepa(recipe: Recipe, seed: int) -> Jepa:
    """The model a federation starts from: the same bytes for the same recipe and seed.

    Made on the CPU under a generator of its own; the caller's random state is untouched.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, "initial model"))
        model = Jepa(recipe)
        _initialise(model)
    return model


def encoder_of(recipe: Recipe, vector: ParameterVector, modality: str | None = None) -> Encoder:
    """One modality's way through the model that a vector is; raises ConfigError."""
    model = build_jepa(recipe, seed=0)
    vector.load_into(model)
    return model.encoder(modality)


def _initialise(model: Jepa) -> None:
    """Xavier for linear maps, as ViTs use; convolutions and norms keep PyTorch's own.

    What each residual branch adds is shrunk by √(2 · depth), so that the trunk starts near the
    identity (GPT-2 §2.3): worth a point of probe after a few hundred steps.
    """
    for module in (model.tokenizers, model.trunk, model.projector):
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    blocks = [block for block in model.trunk.blocks if isinstance(block, Block)]
    with torch.no_grad():
        for block in blocks:
            block.attention.out.weight.div_(math.sqrt(2 * len(blocks)))
            block.mlp_out.weight.div_(math.sqrt(2 * len(blocks)))

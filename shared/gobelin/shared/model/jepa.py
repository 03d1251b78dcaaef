"""The JEPA: tokenizer, trunk and projector, which are also the groups of the parameter vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gobelin.shared.model.projector import Projector
from gobelin.shared.model.tokenizer import ImageTokenizer
from gobelin.shared.model.trunk import Block, Trunk
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import derive_seed


class Jepa(nn.Module):
    """An encoder (tokenizer and trunk) with the projector the objective looks through."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tokenizer = ImageTokenizer(recipe.tokenizer, recipe.trunk.dim)
        self.trunk = Trunk(recipe.trunk)
        self.projector = Projector(recipe.projector, recipe.trunk.dim)

    def tokens(self, images: Tensor) -> Tensor:
        """Encoded tokens (B, N, D) of float images (B, C, H, W) in [-1, 1]."""
        encoded: Tensor = self.trunk(self.tokenizer(images))
        return encoded

    def features(self, images: Tensor) -> Tensor:
        """Mean-pooled features (B, D) of float images (B, C, H, W)."""
        return self.tokens(images).mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Projections (B, out) of float images (B, C, H, W)."""
        projections: Tensor = self.projector(self.features(images))
        return projections

    def embed_views(self, stacks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features (V, B, D) and projections (V, B, out) of stacks of views (V_i, B, C, H_i, W_i).

        All views pass the projector together, so that its BatchNorm sees one batch of V · B.
        """
        features = torch.cat([self.features(stack.flatten(0, 1)) for stack in stacks])
        projections: Tensor = self.projector(features)
        views, batch = len(features) // stacks[0].shape[1], stacks[0].shape[1]
        return features.view(views, batch, -1), projections.view(views, batch, -1)


def build_jepa(recipe: Recipe, seed: int) -> Jepa:
    """The model a federation starts from: the same bytes for the same recipe and seed.

    Made on the CPU under a generator of its own; the caller's random state is untouched.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, "initial model"))
        model = Jepa(recipe)
        _initialise(model)
    return model


def _initialise(model: Jepa) -> None:
    """Xavier for linear maps, as ViTs use; convolutions and norms keep PyTorch's own.

    What each residual branch adds is shrunk by √(2 · depth), so that the trunk starts near the
    identity (GPT-2 §2.3): worth a point of probe after a few hundred steps.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [block for block in model.trunk.blocks if isinstance(block, Block)]
    with torch.no_grad():
        for block in blocks:
            block.attention.out.weight.div_(math.sqrt(2 * len(blocks)))
            block.mlp_out.weight.div_(math.sqrt(2 * len(blocks)))

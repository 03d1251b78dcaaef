"""The masked predictor: what a trunk would say at places it was not shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gobelin.shared.model.trunk import Trunk
from gobelin.shared.objective.latent import gather_tokens
from gobelin.shared.objective.masks import Masks
from gobelin.shared.recipe import TrunkRecipe

WAVELENGTH = 10_000.0  # of the slowest position channel (arXiv:1706.03762 §3.5)


class MaskedPredictor(nn.Module):
    """I-JEPA's narrow transformer (arXiv:2301.08243) over context tokens and mask tokens.

    Each block of targets is predicted by itself, so none sees how the others lie.
    """

    def __init__(self, recipe: TrunkRecipe, context: int, out: int) -> None:
        super().__init__()
        self.dim = recipe.dim
        self.read = nn.Linear(context, recipe.dim)
        self.mask = nn.Parameter(0.02 * torch.randn(recipe.dim))
        self.trunk = Trunk(recipe)
        self.write = nn.Linear(recipe.dim, out)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, context: Tensor, masks: Masks, grid: tuple[int, ...]) -> Tensor:
        """Latents (T, B, Nt, out) at the targets, of context tokens (B, Nc, D) on a grid."""
        places = grid_positions(grid, self.dim, context.device)[None]  # (1, N, dim)
        places = places.expand(len(context), -1, -1)
        seen = self.read(context) + gather_tokens(places, masks.context)
        found = []
        for block in masks.targets:
            asked = self.mask + gather_tokens(places, block)  # (B, Nt, dim)
            told = self.trunk(torch.cat([seen, asked.to(seen.dtype)], dim=1))
            found.append(self.write(told[:, seen.shape[1] :]))
        return torch.stack(found)


def grid_positions(grid: tuple[int, ...], dim: int, device: torch.device | None = None) -> Tensor:
    """Fixed sine-cosine positions (N, dim) of a grid's N places, row by row.

    Each axis has an equal share of the channels; what does not divide is zero.
    """
    quarter = dim // (2 * len(grid))
    scale = torch.arange(quarter, device=device, dtype=torch.float32) / max(1, quarter)
    axes = [torch.arange(n, device=device, dtype=torch.float32) + 0.5 for n in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # (N, axes)
    angles = places[..., None] * WAVELENGTH**-scale  # (N, axes, quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return nn.functional.pad(waves, (0, dim - waves.shape[1]))

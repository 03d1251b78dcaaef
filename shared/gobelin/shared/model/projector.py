"""The projector: the MLP between the trunk's features and the objective."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import ProjectorRecipe


class Projector(nn.Module):
    """Features (B, D) to projections (B, out).

    The last layer is a plain Linear: a norm on the output would make SIGReg unattainable.
    BatchNorm works with batch statistics only, so that no running state hides from the
    parameter vector.
    """

    def __init__(self, recipe: ProjectorRecipe, dim: int) -> None:
        super().__init__()
        # BatchNorm undoes a bias before it; Adam would turn the rounding of its zero gradient into
        # noise in every delta.
        bias = recipe.norm != "batch"
        self.layers = nn.Sequential(
            nn.Linear(dim, recipe.hidden, bias=bias),
            norm_of(recipe),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.hidden, bias=bias),
            norm_of(recipe),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.out),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, out)."""
        projections: Tensor = self.layers(features)
        return projections


def norm_of(recipe: ProjectorRecipe) -> nn.Module:
    """The norm of a hidden layer (B, hidden), as a recipe wants it."""
    if recipe.norm == "batch":
        return BatchNorm(recipe.hidden, track_running_stats=False)
    return nn.LayerNorm(recipe.hidden)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation by the statistics of all ranks' samples, where there are ranks.

    PyTorch's SyncBatchNorm does this on accelerators only.
    """

    ranks: Ranks | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) → (B, D); every rank has as many samples."""
        if self.ranks is None:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            samples = len(x) * self.ranks.size
            centred = wide - self.ranks.add(wide.sum(dim=0)) / samples
            variance = self.ranks.add(centred.square().sum(dim=0)) / samples
            normed = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normed.to(x.dtype)

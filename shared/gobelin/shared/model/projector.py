"""The projector: the MLP between the trunk's features and the objective."""

from __future__ import annotations

from torch import Tensor, nn

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
            _norm(recipe),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.hidden, bias=bias),
            _norm(recipe),
            nn.GELU(),
            nn.Linear(recipe.hidden, recipe.out),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) → (B, out)."""
        projections: Tensor = self.layers(features)
        return projections


def _norm(recipe: ProjectorRecipe) -> nn.Module:
    if recipe.norm == "batch":
        return nn.BatchNorm1d(recipe.hidden, track_running_stats=False)
    return nn.LayerNorm(recipe.hidden)

"""Vectors: states and other fixed lists of numbers, one token each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gobelin.shared.data.formats import Format
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.settings import Fraction, Positive


class VectorRecipe(ModalityRecipe):
    """How a vector becomes a token, and how it is augmented."""

    kind: Literal["vector"] = "vector"
    channels: Positive  # S, values of a vector
    hidden: Positive = 128  # width of the MLP that makes it a token
    scale: Annotated[float, Field(gt=0)] = 1.0  # values are divided by it, alike on every node
    noise: Annotated[float, Field(ge=0)] = 0.1  # standard deviation in a view, of scaled values
    dropped: Fraction = 0.1  # share of the values a view leaves out


class Vector(Modality[VectorRecipe, Tensor]):
    """float32 (B, S)."""

    Table: ClassVar[type[VectorRecipe]] = VectorRecipe

    @property
    def form(self) -> Format:
        """None by themselves; vectors come as the observations of trajectories."""
        raise ConfigError("vectors are read as trajectories only", 'use kind = "trajectory"')

    def tokenizer(self, dim: int) -> nn.Module:
        """An MLP; (B, S) → (B, 1, dim)."""
        recipe = self.recipe
        return nn.Sequential(
            nn.Linear(recipe.channels, recipe.hidden),
            nn.GELU(),
            nn.Linear(recipe.hidden, dim),
            nn.Unflatten(1, (1, dim)),
        )

    def check(self, batch: Tensor) -> None:
        """float32 (B, S) with the recipe's channels, all finite."""
        channels = self.recipe.channels
        if batch.dtype != torch.float32 or batch.ndim != 2 or batch.shape[1] != channels:
            found = f"{batch.dtype} {tuple(batch.shape)}"
            raise DataError(f"a batch is {found}, the recipe needs float32 (B, {channels})")
        if not bool(batch.isfinite().all()):
            raise DataError("a vector has values that are not finite", "mend or leave them out")

    def prepare(self, batch: Tensor) -> Tensor:
        """Scaled."""
        return batch / self.recipe.scale

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Two views, each with noise and some values left out."""
        prepared = self.prepare(batch)
        stack = torch.stack([self._view(prepared, generator) for _ in range(2)])
        return Views([stack], leading=2)

    def made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """Gaussian."""
        return self.recipe.scale * torch.randn(count, self.recipe.channels, generator=generator)

    def _view(self, prepared: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(prepared.shape, generator=generator).to(prepared.device)
        kept = torch.rand(prepared.shape, generator=generator).to(prepared.device)
        return (prepared + self.recipe.noise * noise) * (kept >= self.recipe.dropped)

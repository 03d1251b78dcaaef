"""What guardrails speak of, read out of latents by a linear map fitted on labelled ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import DataError

RIDGE = 1e-4  # share of the latents' mean variance added to each


@dataclass(frozen=True, eq=False)
class LinearReadout:
    """latents (..., P) → values (..., R): a `Readout`."""

    weight: Tensor  # (P, R)
    bias: Tensor  # (R,)

    @classmethod
    def fit(cls, latents: Tensor, values: Tensor) -> LinearReadout:
        """Ridge regression of values (N, R) on latents (N, P); raises DataError."""
        fits = latents.ndim == values.ndim == 2 and len(latents) == len(values) >= 2
        if not fits or not bool(latents.isfinite().all() & values.isfinite().all()):
            what = f"latents {tuple(latents.shape)} with values {tuple(values.shape)}"
            raise DataError(what, "a readout needs two finite rows at least, as many of each")
        x, y = latents.double(), values.double()
        middle, level = x.mean(dim=0), y.mean(dim=0)
        x, y = x - middle, y - level
        gram = x.T @ x
        ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram + ridge * eye, x.T @ y)
        return cls(weight, level - middle @ weight)

    def __call__(self, latents: Tensor) -> Tensor:
        """Values (..., R)."""
        return latents @ self.weight.to(latents) + self.bias.to(latents)

    def error(self, latents: Tensor, values: Tensor) -> Tensor:
        """Root mean square error (R,) on latents (N, P) with values (N, R)."""
        off = self(latents.double()) - values.double()
        return off.square().mean(dim=0).sqrt()

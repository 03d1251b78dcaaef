"""VICReg: views agree, every dimension keeps its variance, and no two dimensions tell the same.

arXiv:2105.04906. The covariance term is the *mean* over the D (D − 1) off-diagonal entries, so its
weight means the same at any D; the paper divides their sum by D, which is D − 1 times as much.
Gradient flows through all views: there is no teacher and nothing is detached.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import ShapeError

EPSILON = 1e-4  # under the root of the variance, whose slope is without end at 0
TARGET = 1.0  # the standard deviation below which a dimension is pushed


@dataclass(frozen=True)
class VicReg:
    """The three terms of views z (V, N, D), scalars () with their graph."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, z: Tensor) -> VicReg:
        """The terms of V ≥ 2 views; variance and covariance are summed over views, as in the paper.

        The maths is fp32 (fp64 for fp64 input), under autocast too. Raises ShapeError for fewer
        than two views, samples or dimensions.
        """
        if z.ndim != 3 or min(z.shape) < 2:
            raise ShapeError(f"VICReg of views {tuple(z.shape)}", "give (V, N, D), each ≥ 2")
        with torch.autocast(z.device.type, enabled=False):
            wide = z if z.dtype == torch.float64 else z.float()
            return cls(
                invariance(wide),
                sum((variance(view) for view in wide), wide.new_zeros(())),
                sum((covariance(view) for view in wide), wide.new_zeros(())),
            )

    def total(self, variance_weight: float = 1.0, covariance_weight: float = 80.0) -> Tensor:
        """invariance + a · variance + b · covariance."""
        return (
            self.invariance + variance_weight * self.variance + covariance_weight * self.covariance
        )


def invariance(z: Tensor) -> Tensor:
    """Mean squared difference of two views, over all pairs of views z (V, N, D)."""
    views = len(z)
    # Σ over pairs of (zᵢ − zⱼ)² is V Σ (zᵢ − mean)².
    return (z - z.mean(dim=0)).square().mean() * (2 * views / (views - 1))


def variance(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 − √(var + 1e-4)) of z (N, D), var over N − 1."""
    return torch.relu(TARGET - (z.var(dim=0) + EPSILON).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Mean squared off-diagonal entry of the covariance (over N − 1) of z (N, D)."""
    samples, dim = z.shape
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / (samples - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / (dim * (dim - 1))

"""Moments: a sketch of mean and covariance alone, from which any slice's offset follows.

What `sketch` corrects under the few slices it was taken on, moments correct under every slice, to
the order of a Gaussian: the offset is the characteristic function of the Gaussian with all nodes'
moments less that of the one with the node's own. Slices can be fresh every step, the egress is
D + D² numbers, and the mean of nodes' moments is the moments of their data together (exactly,
unlike their covariances): they add up like a parameter vector does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.errors import NotFiniteError, ShapeError
from gobelin.shared.objective.sigreg import directions
from gobelin.shared.objective.sketch import exact_mean

RADII = 3.0  # projections are cut to a length of RADII · √D; a healthy one has about √D


@dataclass(frozen=True, eq=False)
class Moments:
    """Raw first and second moments of projections cut to the length RADII · √D.

    They depend on data and leave the node: a declared egress, of D + D² numbers. The cut bounds
    them: ‖mean‖² ≤ trace(second) ≤ RADII² · D, and one sample's share of both by 1 / samples.
    """

    mean: Tensor  # (D,) fp32
    second: Tensor  # (D, D) fp32, mean of z zᵀ
    samples: int

    def __post_init__(self) -> None:
        dim = len(self.mean)
        if self.mean.shape != (dim,) or self.second.shape != (dim, dim) or self.samples < 1:
            raise ShapeError("moments are a mean (D,) and a (D, D) of at least one sample")
        bound = RADII**2 * dim * 1.001  # for rounding
        fits = self.second.trace() <= bound and self.mean.square().sum() <= bound
        if not fits or not bool(torch.isfinite(self.second).all()):
            raise NotFiniteError(f"moments are finite and at most {bound:.0f}")

    @classmethod
    @torch.no_grad()
    def of(cls, z: Tensor) -> Moments:
        """The moments of projections z (N, D)."""
        wide = z.double()
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        wide = wide * (RADII * z.shape[1] ** 0.5 / lengths).clamp(max=1)
        second = wide.T @ wide / len(z)
        return cls(wide.mean(dim=0).float().cpu(), second.float().cpu(), len(z))

    @classmethod
    def pool(cls, moments: Iterable[tuple[Moments, Fraction]]) -> Moments:
        """The moments of the nodes' data together, by (moments, weight ≥ 0) in any order."""
        rows = [(own, weight) for own, weight in moments if weight > 0]
        mean = exact_mean([(own.mean, weight) for own, weight in rows])
        second = exact_mean([(own.second, weight) for own, weight in rows])
        return cls(mean, second, sum(own.samples for own, _ in rows))

    def offset_from(self, own: Moments) -> MomentOffset:
        """What these moments, the global ones, add to a node's own characteristic function."""
        return MomentOffset(self, own)

    def characteristic(self, slices: Tensor, knots: int, t_max: float) -> tuple[Tensor, Tensor]:
        """C and S (M, K) under slices (D, M) of the Gaussian with these moments.

        exp(i t μ_m − t² σ²_m / 2) with μ_m = ⟨a_m, mean⟩ and σ²_m = a_mᵀ cov a_m.
        """
        t = torch.linspace(0, t_max, knots, device=slices.device)
        second = self.second.to(slices.device)
        middle = self.mean.to(slices.device) @ slices  # (M,)
        variance = ((slices * (second @ slices)).sum(dim=0) - middle.square()).clamp(min=0)
        size = torch.exp(-t.square() * variance[:, None] / 2)
        angle = t * middle[:, None]
        return size * angle.cos(), size * angle.sin()


@dataclass(frozen=True, eq=False)
class MomentOffset:
    """Global − own, for whatever slices a step draws."""

    pooled: Moments
    own: Moments

    def draw(
        self,
        seed: int,
        dim: int,
        slices: int,
        knots: int,
        t_max: float,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Fresh directions (dim, M) of a step's seed, and their offsets, each (M, K)."""
        drawn = directions(seed, dim, slices, device)
        cosine, sine = self.pooled.characteristic(drawn, knots, t_max)
        own_cosine, own_sine = self.own.characteristic(drawn, knots, t_max)
        return drawn, (cosine - own_cosine, sine - own_sine)

"""Health of a representation: whether it still spans many dimensions, or is collapsing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.objective.objective import ObjectiveRecipe
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg

POINT = 1e-12  # variance below this share of the mean square is rounding: all embeddings are equal


@dataclass(frozen=True)
class Health:
    """Figures that fall (ranks, deviations) or rise (collapse) when a model collapses."""

    effective_rank: float  # of the features, at most `dim`
    rankme: float  # of the features; milder than the effective rank
    deviation_mean: float  # standard deviation of a feature's dimension, mean over dimensions
    deviation_min: float  # and of the deadest dimension
    collapse: float  # T / N of the projections: 1.06 / N when Gaussian, 0.41 when one point
    dim: int
    samples: int


def measure_health(
    features: Tensor, projections: Tensor, objective: ObjectiveRecipe, seed: int
) -> Health:
    """Health of features (N, D) and of their projections (N, P), under slices of `seed`."""
    samples = len(features)
    slices = directions(seed, projections.shape[1], objective.slices, projections.device)
    statistic = sigreg(projections, slices, objective.knots, objective.t_max)
    spread = deviations(features)
    return Health(
        effective_rank=effective_rank(features),
        rankme=rankme(features),
        deviation_mean=float(spread.mean()),
        deviation_min=float(spread.min()),
        collapse=float(collapse_score(statistic, samples)),
        dim=features.shape[1],
        samples=samples,
    )


def effective_rank(features: Tensor) -> float:
    """exp(entropy) of the covariance's eigenvalue shares of (N, D): 1 … D, and 0 for one point.

    Roy & Vetterli, "The effective rank" (EUSIPCO 2007), on variances instead of deviations.
    """
    return _entropy_rank(_singular_values(features).square())


def rankme(features: Tensor) -> float:
    """exp(entropy) of the singular value shares of centred (N, D) (RankMe, arXiv:2210.02885).

    Centred, unlike the paper's: a common offset is no information.
    """
    return _entropy_rank(_singular_values(features))


def deviations(features: Tensor) -> Tensor:
    """Standard deviation (D,) of each dimension of (N, D)."""
    return features.float().std(dim=0, correction=0)


def frame_rotation(features: Tensor, reference: Tensor) -> float:
    """Degrees, 0 … 180, by which features (N, D) lie turned against a reference model's.

    Of all orthogonal Q, ⟨features Q, reference⟩ is largest at Procrustes' solution, and is then
    the nuclear norm of featuresᵀ reference (Schönemann 1966). The angle whose cosine is
    ⟨features, reference⟩ over that is the rotation: the mean cosine over the turned planes, each
    weighed by what lies in it, so that fewer images than dimensions will do. Size and offset do
    not matter; 0 where the features of either are one point.
    """
    mine, its = _centred(features), _centred(reference)
    if mine is None or its is None:
        return 0.0
    if len(mine) < mine.shape[1]:  # the same singular values from (N, N) instead of (D, D)
        product = torch.linalg.qr(mine.T).R @ torch.linalg.qr(its.T).R.T
    else:
        product = mine.T @ its
    best = float(torch.linalg.svdvals(product).sum())
    aligned = float((mine * its).sum())
    return math.degrees(math.acos(max(-1.0, min(1.0, aligned / best)))) if best else 90.0


def _centred(features: Tensor) -> Tensor | None:
    """Centred (N, D) in fp64; None if the features are one point up to rounding."""
    wide = features.detach().double()
    centred = wide - wide.mean(dim=0)
    if centred.square().mean() <= POINT * wide.square().mean():
        return None
    return centred


def _singular_values(features: Tensor) -> Tensor:
    """Singular values of centred (N, D), fp64, from the smaller of its two Gram matrices.

    Empty if the features are one point up to rounding.
    """
    centred = _centred(features)
    if centred is None:
        return features.new_empty(0, dtype=torch.float64)
    samples, dim = centred.shape
    gram = centred.T @ centred if dim <= samples else centred @ centred.T
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp(min=0).sqrt()


def _entropy_rank(values: Tensor) -> float:
    """exp(−Σ p log p) with p the shares of `values` (K,); 0 if there are none."""
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())

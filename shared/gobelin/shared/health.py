"""Health of a representation: whether it still spans many dimensions, or is collapsing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import ShapeError
from gobelin.shared.objective.objective import ObjectiveRecipe
from gobelin.shared.objective.sigreg import collapse_score, directions, sigreg

WITHIN = 1e-4  # added to the within-sample covariance of LiDAR, as in the paper
POINT = 1e-12  # variance below this share of the mean square is rounding: all embeddings are equal


@dataclass(frozen=True)
class Health:
    """Figures that fall (ranks, deviations) or rise (collapse) when a model collapses."""

    effective_rank: float  # of the features, at most `dim`
    rankme: float  # of the features; milder than the effective rank
    deviation_mean: float  # standard deviation of a feature's dimension, mean over dimensions
    deviation_min: float  # and of the deadest dimension
    spread: float  # share of the features' mean square that is variance, 0 … 1
    projected_rank: float  # effective rank of the projections
    projected_spread: float  # and their spread
    projected_deviation: float  # and their mean deviation, about 1 where SIGReg has done its work
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
    each = deviations(features)
    return Health(
        effective_rank=effective_rank(features),
        rankme=rankme(features),
        deviation_mean=float(each.mean()),
        deviation_min=float(each.min()),
        spread=spread(features),
        projected_rank=effective_rank(projections),
        projected_spread=spread(projections),
        projected_deviation=float(deviations(projections).mean()),
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


def spread(features: Tensor) -> float:
    """Share, 0 … 1, of the mean square of (N, D) that is variance and not a common offset."""
    centred = _centred(features)
    if centred is None:
        return 0.0
    return float(centred.square().mean() / features.detach().double().square().mean())


def lidar(views: Tensor) -> float:
    """LiDAR of views (V, N, D), V ≥ 2 of each of N ≥ 2 samples: 1 … D, and 0 for one point.

    The entropy rank of the eigenvalues of Σw^−½ Σb Σw^−½: how many dimensions tell samples apart
    beyond what a sample's views differ by. Σb is the covariance of the samples' means, Σw the mean
    covariance of a sample's views, plus 1e-4 I (arXiv:2312.04000). Raises ShapeError on less.
    """
    if views.ndim != 3 or len(views) < 2 or views.shape[1] < 2:
        raise ShapeError(f"LiDAR of views {tuple(views.shape)}", "give (V, N, D), V and N ≥ 2")
    wide = views.detach().double()
    means = wide.mean(dim=0)  # (N, D)
    centred = _centred(means)
    if centred is None:
        return 0.0
    noise = (wide - means).flatten(0, 1)  # (V N, D)
    within = noise.T @ noise / len(noise)
    within.diagonal().add_(WITHIN)
    # L⁻¹ Σb L⁻ᵀ with Σw = L Lᵀ has the eigenvalues of Σw^−½ Σb Σw^−½.
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(within), centred.T / len(centred) ** 0.5, upper=False
    )
    return _entropy_rank(torch.linalg.svdvals(whitened).square())


def straightness(latents: Tensor) -> float:
    """Mean cosine, −1 … 1, of successive steps of latent paths (B, T, D): 1 on straight lines.

    cos(z_{t+1} − z_t, z_{t+2} − z_{t+1}) rises while a world model learns (Hénaff et al.,
    Nature Neuroscience 2019, for perception). A step of length 0 counts 0. Raises ShapeError for
    paths of fewer than three points.
    """
    if latents.ndim != 3 or latents.shape[1] < 3:
        raise ShapeError(f"straightness of {tuple(latents.shape)}", "give (B, T, D) with T ≥ 3")
    steps = latents.detach().double().diff(dim=1)
    return float(torch.cosine_similarity(steps[:, :-1], steps[:, 1:], dim=2).mean())


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

"""Anomaly scores: how far embeddings lie from those of normal data, and how well that tells.

For any encoder's features; where there are actions, a world model's surprise says more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import DataError

SHRINKAGE = 1e-3  # share of the mean variance added to each, lest a dead dimension be infinite
CHUNK = 1024  # embeddings compared with the normal ones at a time


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Distance in standard deviations of normal data, whatever directions they spread in."""

    mean: Tensor  # (D,)
    root: Tensor  # (D, D), lower; covariance = root · rootᵀ

    @classmethod
    def of(cls, normal: Tensor, shrinkage: float = SHRINKAGE) -> Mahalanobis:
        """Fitted to embeddings (N, D) of normal data; raises DataError for unusable ones."""
        normal = _checked(normal).double()
        mean = normal.mean(dim=0)
        covariance = torch.cov(normal.T).reshape(normal.shape[1], -1)
        scale = covariance.diagonal().mean()
        if float(scale) <= 0:
            raise DataError("all normal embeddings are equal", "use a model that has not collapsed")
        ridge = shrinkage * scale * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        return cls(mean, torch.linalg.cholesky(covariance + ridge))

    def whiten(self, embeddings: Tensor) -> Tensor:
        """Embeddings (M, D) in coordinates in which normal ones spread alike in all directions."""
        away = (_like(embeddings, len(self.mean)).double() - self.mean).T
        solved: Tensor = torch.linalg.solve_triangular(self.root, away, upper=False)
        return solved.T

    def score(self, embeddings: Tensor) -> Tensor:
        """Anomaly scores (M,) of embeddings (M, D)."""
        return self.whiten(embeddings).square().sum(dim=1).sqrt()


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Mean Euclidean distance to the k nearest normal embeddings: for normal data of any shape."""

    normal: Tensor  # (N, D)
    k: int = 5

    def __post_init__(self) -> None:
        _checked(self.normal)
        if not 1 <= self.k <= len(self.normal):
            raise DataError(f"{self.k} neighbours of {len(self.normal)}", "use fewer, at least 1")

    def score(self, embeddings: Tensor) -> Tensor:
        """Anomaly scores (M,) of embeddings (M, D)."""
        given = _like(embeddings, self.normal.shape[1]).to(self.normal)
        far = [
            torch.cdist(part, self.normal).topk(self.k, largest=False).values
            for part in torch.split(given, CHUNK)
        ]
        return torch.cat(far).mean(dim=1)


def auroc(scores: Tensor, anomalous: Tensor) -> float:
    """The area under the ROC curve of scores (M,), given which are anomalous (M,) bool.

    The chance that an anomalous one scores above a normal one, ties counted half (Hanley & McNeil
    1982). Raises DataError where one of the two kinds is missing or a score is NaN.
    """
    scores, anomalous = scores.flatten().double().cpu(), anomalous.flatten().bool().cpu()
    hits = int(anomalous.sum())
    misses = len(scores) - hits
    if len(scores) != len(anomalous) or not hits or not misses or bool(scores.isnan().any()):
        what = f"{len(scores)} scores, {hits} of {len(anomalous)} anomalous"
        raise DataError(what, "give scores without NaN, and both normal and anomalous ones")
    _, place, count = torch.unique(scores, return_inverse=True, return_counts=True)
    middle = count.cumsum(0) - (count - 1) / 2  # the mean rank of each value, from 1
    ranks = middle.double()[place][anomalous].sum()
    return float((ranks - hits * (hits + 1) / 2) / (hits * misses))


def _checked(normal: Tensor) -> Tensor:
    if normal.ndim != 2 or len(normal) < 2 or not bool(normal.isfinite().all()):
        what = f"normal embeddings {tuple(normal.shape)}, finite or not"
        raise DataError(what, "give (N, D), N at least 2, all finite")
    return normal


def _like(embeddings: Tensor, dim: int) -> Tensor:
    if embeddings.ndim != 2 or embeddings.shape[1] != dim or not bool(embeddings.isfinite().all()):
        what = f"embeddings {tuple(embeddings.shape)}, finite or not"
        raise DataError(what, f"give (M, {dim}), all finite")
    return embeddings

"""Calibration: whether a classifier that is 80 % sure is right 80 % of the time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.evaluation.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Flags,
    Floats,
    Indices,
    Interval,
    Mean,
    interval,
)
from gobelin.shared.evaluation.probes import require_labelled

BINS = 15
TEMPERATURES = torch.logspace(-1, 1, 81)


@dataclass(frozen=True)
class Bin:
    """The predictions whose confidence lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float  # mean
    accuracy: float  # share that are right


@dataclass(frozen=True)
class Calibration:
    """How far a classifier's probabilities can be believed; lower is better throughout."""

    ece: Interval  # expected calibration error, percent
    brier: Interval  # 0 to 2
    nll: Interval  # nats a sample
    overconfidence: float  # mean confidence minus accuracy, points: above 0, it is too sure
    bins: tuple[Bin, ...]  # those with predictions in them: the reliability diagram

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CalibrationError:
    """Expected calibration error in percent, of BINS equal bins of the confidence in the likeliest
    class (Guo et al., arXiv:1706.04599). Few samples make it look larger than it is."""

    confidence: Floats  # (N,)
    right: Flags  # (N,)

    @property
    def strata(self) -> Indices:
        """All units are of one kind."""
        return np.zeros(len(self.right), dtype=np.int64)

    def of(self, chosen: Indices) -> float:
        """Percent."""
        confidence, right = self.confidence[chosen], self.right[chosen]
        place = bin_of(confidence)
        gaps = np.bincount(place, weights=confidence - right, minlength=BINS)
        return 100 * float(np.abs(gaps).sum()) / len(chosen)


def calibration(
    logits: Tensor,  # (N, K)
    labels: Tensor,  # (N,)
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Calibration:
    """ECE, Brier score (Brier 1950: Σ over classes, 0 to 2) and negative log-likelihood.

    Raises DataError unless logits are finite and labels are below K.
    """
    require_labelled(logits, labels, logits.shape[1])
    logs = F.log_softmax(logits.double(), dim=1).cpu()
    labels = labels.cpu()
    shares = logs.exp()
    top, predicted = shares.max(dim=1)
    right = (predicted == labels).numpy()
    sure = top.numpy()
    brier = (shares - F.one_hot(labels, logits.shape[1])).square().sum(dim=1)
    likelihood = -logs.gather(1, labels[:, None])[:, 0]

    def of(statistic: Mean | CalibrationError) -> Interval:
        return interval(statistic, confidence=confidence, resamples=resamples, seed=seed)

    return Calibration(
        ece=of(CalibrationError(sure, right)),
        brier=of(Mean(brier.numpy())),
        nll=of(Mean(likelihood.numpy())),
        overconfidence=100 * float(sure.mean() - right.mean()),
        bins=reliability(sure, right),
    )


def reliability(confidence: Floats, right: Flags) -> tuple[Bin, ...]:
    """The bins of a reliability diagram that have predictions in them, by rising confidence."""
    place = bin_of(confidence)
    return tuple(
        Bin(
            low=number / BINS,
            high=(number + 1) / BINS,
            count=int((place == number).sum()),
            confidence=float(confidence[place == number].mean()),
            accuracy=float(right[place == number].mean()),
        )
        for number in np.unique(place).tolist()
    )


def bin_of(confidence: Floats) -> Indices:
    """The number of the bin (low, high] that each confidence (N,) lies in."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def calibrated(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[float, float]:
    """The temperature that fits logits (N, K) to labels (N,) best, and the cross-entropy with it.

    Temperature scaling (arXiv:1706.04599) on a grid: how sure a model is of itself says nothing of
    which model is better, and is mended by one number.
    """
    losses = [float(F.cross_entropy(logits / t, labels, weights)) for t in TEMPERATURES]
    best = min(range(len(losses)), key=losses.__getitem__)
    return float(TEMPERATURES[best]), losses[best]

"""Intervals: how far off a figure may be because the test samples are one draw of many.

They hold the model fixed: what another seed or other labels would have made of it is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.anomaly import auroc
from gobelin.shared.seeds import derive_seed

CONFIDENCE = 0.95
RESAMPLES = 2000

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A figure, and the two-sided interval it lies in."""

    value: float
    low: float
    high: float

    def facts(self) -> dict[str, float]:
        """Plain JSON."""
        return asdict(self)

    def text(self, digits: int = 1, *, signed: bool = False) -> str:
        """As written in a table: `81.3 [79.0, 83.5]`."""
        sign = "+" if signed else ""
        value, low, high = (f"{x:{sign}.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


class Statistic(Protocol):
    """A figure of N units (samples, episodes) that can be asked of any of them again."""

    @property
    def strata(self) -> Indices:
        """Kinds of units (N,): a resample has as many of each kind."""
        ...

    def of(self, chosen: Indices) -> float:
        """The figure of the units at `chosen` (M,), which may repeat."""
        ...


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of `values` (N,)."""

    values: Floats

    @property
    def strata(self) -> Indices:
        """All units are of one kind."""
        return np.zeros(len(self.values), dtype=np.int64)

    def of(self, chosen: Indices) -> float:
        """The mean."""
        return float(self.values[chosen].mean())


@dataclass(frozen=True, eq=False)
class Share:
    """Percent of `hits` (N,); its own interval is Wilson's."""

    hits: Flags

    @property
    def strata(self) -> Indices:
        """All units are of one kind."""
        return np.zeros(len(self.hits), dtype=np.int64)

    def of(self, chosen: Indices) -> float:
        """Percent."""
        return 100 * float(self.hits[chosen].mean())


@dataclass(frozen=True, eq=False)
class Balanced:
    """Mean over classes of the percent of `hits` (N,) in each: rare classes weigh as much."""

    hits: Flags
    labels: Indices  # (N,)

    @property
    def strata(self) -> Indices:
        """The classes."""
        return self.labels

    def of(self, chosen: Indices) -> float:
        """Percent, over the classes that are there."""
        labels = self.labels[chosen]
        counts = np.bincount(labels)
        right = np.bincount(labels, weights=self.hits[chosen])
        return 100 * float((right[counts > 0] / counts[counts > 0]).mean())


@dataclass(frozen=True, eq=False)
class Ranking:
    """AUROC in percent of `scores` (N,), given which units are `anomalous` (N,)."""

    scores: Floats
    anomalous: Flags

    @property
    def strata(self) -> Indices:
        """Anomalous or not."""
        return self.anomalous.astype(np.int64)

    def of(self, chosen: Indices) -> float:
        """Percent; raises DataError where one kind is missing."""
        scores, odd = (torch.from_numpy(x[chosen]) for x in (self.scores, self.anomalous))
        return 100 * auroc(scores, odd)


@dataclass(frozen=True, eq=False)
class Found:
    """Percent of anomalous units whose score is above that of all but `alarms` of the normal."""

    scores: Floats
    anomalous: Flags
    alarms: float = 0.05  # share of normal units that may be called anomalous

    @property
    def strata(self) -> Indices:
        """Anomalous or not."""
        return self.anomalous.astype(np.int64)

    def of(self, chosen: Indices) -> float:
        """Percent."""
        scores, odd = self.scores[chosen], self.anomalous[chosen]
        threshold = np.quantile(scores[~odd], 1 - self.alarms, method="higher")
        return 100 * float((scores[odd] > threshold).mean())


@dataclass(frozen=True, eq=False)
class Skill:
    """Skill score in percent: 100 (1 − Σ errors / Σ reference), 0 for a forecast no better than
    the reference's, 100 for a perfect one (Murphy, Mon. Weather Rev. 116, 1988)."""

    errors: Floats  # (N,)
    reference: Floats  # (N,), of the forecast to be beaten

    @property
    def strata(self) -> Indices:
        """All units are of one kind."""
        return np.zeros(len(self.errors), dtype=np.int64)

    def of(self, chosen: Indices) -> float:
        """Percent; raises DataError where the reference makes no error."""
        whole = float(self.reference[chosen].sum())
        if whole <= 0:
            raise DataError("nothing moves in the test episodes", "give episodes with motion")
        return 100 * (1 - float(self.errors[chosen].sum()) / whole)


def interval(
    statistic: Statistic,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A figure with its interval: Wilson's for a share, else the percentiles of a bootstrap.

    The bootstrap (Efron & Tibshirani 1993, §13.3) redraws units with replacement within strata.
    Raises DataError where there are no units.
    """
    whole = _all(statistic)
    value = statistic.of(whole)
    if isinstance(statistic, Share):
        low, high = wilson(int(statistic.hits.sum()), len(whole), confidence)
        return Interval(value, 100 * low, 100 * high)
    found = [statistic.of(chosen) for chosen in _redrawn(statistic, resamples, seed)]
    return _within(value, found, confidence)


def difference(
    first: Statistic,
    second: Statistic,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """first − second, both of the same units: a paired bootstrap redraws them together.

    What is hard or easy for both thus cancels. Raises DataError where they are of other units.
    """
    whole = _all(first)
    if not np.array_equal(first.strata, second.strata):
        what = f"figures of {len(whole)} and of {len(second.strata)} units, or of other kinds"
        raise DataError(what, "compare models on the same samples")
    draws = _redrawn(first, resamples, seed)
    found = [first.of(chosen) - second.of(chosen) for chosen in draws]
    return _within(first.of(whole) - second.of(whole), found, confidence)


def wilson(successes: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share, as shares (Wilson, JASA 22, 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, z2 = successes / count, z * z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    low = 0.0 if successes == 0 else middle - half  # exactly, where rounding would miss it
    return low, 1.0 if successes == count else middle + half


def _all(statistic: Statistic) -> Indices:
    count = len(statistic.strata)
    if not count:
        raise DataError("there is nothing to test on", "give labelled test samples")
    return np.arange(count)


def _redrawn(statistic: Statistic, resamples: int, seed: int) -> Iterator[Indices]:
    """The same resamples for every statistic of the same strata: that is what pairs them."""
    random = np.random.default_rng(derive_seed(seed, "bootstrap"))
    strata = statistic.strata
    kinds = [np.flatnonzero(strata == kind) for kind in np.unique(strata)]
    for _ in range(resamples):
        yield np.concatenate([kind[random.integers(0, len(kind), len(kind))] for kind in kinds])


def _within(value: float, found: list[float], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(found), [tail, 1 - tail])
    return Interval(value, float(low), float(high))

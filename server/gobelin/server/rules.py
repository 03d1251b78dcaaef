"""Aggregation rules: how many deltas become one. Chosen by name in `RULES`.

A rule sees members' deltas, never nodes', and has two steps: `mix` says from the whole picture
how much of each delta goes in, `combine` makes one piece of the result from one piece of each
delta. Rules that only mix are as cheap as the mean; rules that sort work coordinate by coordinate.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from gobelin.server.fixed_point import exact_sum
from gobelin.server.geometry import Geometry
from gobelin.server.policy import clip_norm
from gobelin.server.ranks import in_order
from gobelin.server.scratch import scratch

UNITS = 1 << 40  # integer units of all weight, where weights have no common denominator below
COLUMNS = 1 << 15  # coordinates sorted at once

Mix = Sequence[Fraction] | Sequence[float]


class Rule(Protocol):
    """One way to aggregate n deltas under weights whose sum is at most 1."""

    clips: bool  # deltas are clipped to their median norm first
    remembers: bool  # the last round's aggregate comes as one more delta, the last, of weight 0

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> Mix:
        """How much of each delta goes in (n,), not negative, in sum at most Σ weights."""
        ...

    def combine(
        self, rows: Sequence[Tensor], mix: Mix, peaks: Sequence[float], out: Tensor
    ) -> None:
        """One piece of the result, `out` (s,) fp32, from one piece of each delta, n × (s,).

        `peaks` (n,) are what no |δ| of each whole delta passes.
        """
        ...


class Mixing:
    """Base of the rules whose result is Σ mixᵢ dᵢ, summed exactly in fixed point."""

    clips = False
    remembers = False

    def combine(
        self, rows: Sequence[Tensor], mix: Mix, peaks: Sequence[float], out: Tensor
    ) -> None:
        """The fixed-point sum."""
        exact_sum(rows, [float(share) for share in mix], peaks, out)


class Mean(Mixing):
    """The weighted mean: the default, and what a federation of honest members wants."""

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> list[float]:
        """The weights themselves."""
        return [float(weight) for weight in weights]


class ClippedMean(Mean):
    """The weighted mean of deltas clipped to their lower median norm (S&P'22 "Back to the
    drawing board": cheap, and enough against loud liars)."""

    clips = True


@dataclass(frozen=True)
class GeometricMedian(Mixing):
    """The point of least weighted distance to all deltas: RFA's smoothed Weiszfeld
    (arXiv:1912.13445), in the coordinates that the inner products give."""

    nu: float = 1e-6  # smoothing: no distance counts as less
    iterations: int = 10

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> list[float]:
        """Weiszfeld's last weights; it starts where lone and far deltas count little."""
        count, total = len(geometry), sum(weights)
        if not total:
            return [0.0] * count
        shares = [float(weight / total) for weight in weights]
        # distance to the member that completes a majority around one: large for any minority
        apart = [
            sorted(geometry.between(i, j) for j in range(count))[count // 2] for i in range(count)
        ]
        mix = self._normalised(shares, apart)
        for _ in range(self.iterations):
            mix = self._normalised(shares, [geometry.distance(i, mix) for i in range(count)])
        return [float(total) * share for share in mix]

    def _normalised(self, shares: Sequence[float], distances: Sequence[float]) -> list[float]:
        pulls = [s / max(self.nu, d) for s, d in zip(shares, distances, strict=True)]
        whole = math.fsum(pulls)
        return [pull / whole for pull in pulls]


@dataclass(frozen=True)
class CenteredClipping(Mixing):
    """v ← v + Σ wᵢ (dᵢ − v) min(1, τ / ‖dᵢ − v‖), v the last aggregate (arXiv:2012.10333)."""

    radius: float | None = None  # τ; None takes the lower median of ‖dᵢ − v‖
    remembers = True

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> list[float]:
        """Weights shrunk by how far a delta lies beyond τ; what they lose goes to v."""
        members, total = len(geometry) - 1, float(sum(weights))
        away = [geometry.between(i, members) for i in range(members)]
        radius = self.radius or clip_norm(away)
        kept = [
            float(weight) * (1.0 if distance <= radius else radius / distance)
            for weight, distance in zip(weights, away, strict=False)
        ]
        return [*kept, max(0.0, total - math.fsum(kept))]


class Sorting(ABC):
    """Base of the rules that sort every coordinate's n values and weigh them by rank."""

    clips = False
    remembers = False

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> Mix:
        """The weights themselves."""
        return weights

    def combine(
        self, rows: Sequence[Tensor], mix: Mix, peaks: Sequence[float], out: Tensor
    ) -> None:
        """Σ over ranks of share · value, in fp64 and in the order of the ranks."""
        total = float(sum(mix))
        if not total:
            out.zero_()
            return
        units = torch.tensor(_units(mix))  # (n,)
        equal = bool((units == units[0]).all())
        parts = zip(*(torch.split(row, COLUMNS) for row in rows), strict=True)
        for part, found in zip(parts, torch.split(out, COLUMNS), strict=True):
            values = self._evenly(part) if equal else self._weighted(torch.stack(part), units)
            found.copy_(values.mul_(total))

    def _evenly(self, part: Sequence[Tensor]) -> Tensor:
        """Of equal weights: ranks alone decide."""
        units = torch.ones(len(part), dtype=torch.int64)
        shares = self.shares(units.cumsum(dim=0), units).tolist()
        result = scratch("result", (len(part[0]),), torch.float64).zero_()
        term = scratch("term", (len(part[0]),), torch.float64)
        for value, share in zip(in_order(part), shares, strict=True):
            if share:
                result += term.copy_(value).mul_(share)
        return result.div_(math.fsum(shares))

    def _weighted(self, piece: Tensor, units: Tensor) -> Tensor:
        """Of weights that differ: a value's share goes by whose it is."""
        values, order = piece.double().sort(dim=0)  # (n, s)
        shares = self.shares(units[order].cumsum(dim=0), units[order]).double()
        result, whole = torch.zeros_like(values[0]), torch.zeros_like(values[0])
        for value, share in zip(values, shares, strict=True):
            result += value * share
            whole += share
        return result / whole

    @abstractmethod
    def shares(self, below: Tensor, units: Tensor) -> Tensor:
        """Share of each rank, from its units and the units up to and with it: like (n, s)."""


@dataclass(frozen=True)
class TrimmedMean(Sorting):
    """The mean of what remains when `trim` of all weight is cut off at each end
    (arXiv:1803.01498); withstands liars with less than `trim` of the weight."""

    trim: float = 0.2

    def shares(self, below: Tensor, units: Tensor) -> Tensor:
        """The part of a rank's units inside the middle."""
        low = below[-1] * self.trim
        inside = torch.minimum(below.double(), below[-1] - low)
        return (inside - torch.maximum((below - units).double(), low)).clamp(min=0)


class CoordinateMedian(Sorting):
    """The weighted median of every coordinate; of two middle values, their mean."""

    def shares(self, below: Tensor, units: Tensor) -> Tensor:
        """1 for the lower and 1 for the upper median."""
        twice, before, whole = 2 * below, 2 * (below - units), below[-1]
        lower = (before < whole) & (whole <= twice)
        upper = (before <= whole) & (whole < twice)
        return lower.long() + upper.long()


def _units(mix: Mix) -> list[int]:
    """The weights as integers: exact where they have a small common denominator, as equal weights
    have, so that half of all weight is half to the last bit."""
    exact = [Fraction(share) for share in mix]
    common = math.lcm(*(share.denominator for share in exact))
    scale = Fraction(common) if common <= UNITS else UNITS / sum(exact)
    return [round(share * scale) for share in exact]


@dataclass(frozen=True)
class Krum(Mixing):
    """The one delta with the nearest neighbours (NeurIPS 2017): a baseline for benches only, as
    it throws away all members but one."""

    liars: int = 2

    def mix(self, geometry: Geometry, weights: Sequence[Fraction]) -> list[float]:
        """All weight on the delta with the least sum of n − f − 2 nearest squared distances."""
        count = len(geometry)
        near = max(1, count - self.liars - 2)
        scores = [
            math.fsum(sorted(geometry.between(i, j) ** 2 for j in range(count) if j != i)[:near])
            for i in range(count)
        ]
        best = min(range(count), key=lambda i: scores[i])
        return [float(sum(weights)) if i == best else 0.0 for i in range(count)]


RULES: dict[str, Callable[[float, float | None], Rule]] = {
    "mean": lambda trim, radius: Mean(),
    "clipped_mean": lambda trim, radius: ClippedMean(),
    "trimmed_mean": lambda trim, radius: TrimmedMean(trim),
    "median": lambda trim, radius: CoordinateMedian(),
    "geometric_median": lambda trim, radius: GeometricMedian(),
    "centered_clipping": lambda trim, radius: CenteredClipping(radius),
}
DISCARDING = ("trimmed_mean", "median", "geometric_median")  # may drop honest minorities


def make_rule(name: str, trim: float = 0.2, radius: float | None = None) -> Rule:
    """The rule named in the settings."""
    return RULES[name](trim, radius)

"""The paired t-test: are differences of pairs more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gobelin.shared.errors import DataError

PRECISION = 1e-15  # relative, at which the continued fraction ends
TINY = 1e-300  # stands for a denominator of zero


@dataclass(frozen=True)
class TTest:
    """Student's t of n differences, and how likely it or more is if their mean is 0 or less."""

    t: float
    p: float  # one-sided
    n: int
    mean: float


def paired_t_test(differences: Sequence[float]) -> TTest:
    """Tests that the mean difference is greater than 0 (Student 1908).

    Where all differences are equal, t is infinite (or 0, for zeros) and p is 0, ½ or 1. Raises
    DataError for fewer than two differences, and for values that are not finite.
    """
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        raise DataError(f"{n} pairs, of finite values or not", "a t-test needs two finite pairs")
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    if variance == 0:
        t = 0.0 if mean == 0 else math.copysign(math.inf, mean)
    else:
        t = mean / math.sqrt(variance / n)
    return TTest(t, survival(t, n - 1), n, mean)


def survival(t: float, freedom: int) -> float:
    """P(T > t) for Student's T with so many degrees of freedom.

    ½ I(ν / (ν + t²); ν/2, ½) for t ≥ 0, I being the regularised incomplete beta function
    (Abramowitz & Stegun 26.7.1).
    """
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    tail = incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return tail if t >= 0 else 1 - tail


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I(x; a, b), 0 ≤ x ≤ 1, a and b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):  # where the fraction converges fast
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I(x; a, b) (Abramowitz & Stegun 26.5.8), by Lentz's method."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            change = c * d
            value *= change
        if abs(change - 1) < PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY

"""Exact sums: weighted deltas rounded to a common grid, so the sum has no order and no rounding.

Multiples of 2⁻⁴⁰ are added as integers kept in fp64, which are exact below 2⁵³ and several times
faster than int64 on CPUs without 64-bit integer conversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCALE_BITS = 40  # the grid is 2⁻⁴⁰ ≈ 9e-13, far below fp32's resolution at a parameter's size
LIMIT = 2.0**12  # largest |δ| admitted


def exact_sum(rows: Sequence[Tensor], mix: Sequence[float]) -> Tensor:
    """Σ mixᵢ rowᵢ over n × (s,) fp32, mixᵢ ≥ 0, on the grid and rounded to fp32 once: (s,).

    The largest mix counts as 1 until the end, so equal weights are exact. Where the sum could
    pass 2¹², as in no sound round, the grid of these rows is so much coarser.
    """
    total = torch.zeros(len(rows[0]), dtype=torch.float64)
    largest = max(mix)
    if not largest:
        return total.float()
    bits = _bits([share / largest for share in mix], rows)
    scratch = torch.empty_like(total)
    for row, share in zip(rows, mix, strict=True):
        if share:
            scratch.copy_(row)
            total += scratch.mul_(math.ldexp(share / largest, bits)).round_()
    return total.mul_(math.ldexp(largest, -bits)).float()


def _bits(mix: Sequence[float], rows: Sequence[Tensor]) -> int:
    """The most bits, up to 40, at which every partial sum stays below 2⁵³."""
    bound = math.fsum(
        share * max(float(row.amax()), -float(row.amin()))
        for share, row in zip(mix, rows, strict=True)
    )
    return min(SCALE_BITS, 52 - math.frexp(bound)[1])

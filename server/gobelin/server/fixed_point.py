"""Exact sums: weighted deltas rounded to a common grid, so the sum has no order and no rounding.

Multiples of 2⁻⁴⁰ are added as integers kept in fp64, which are exact below 2⁵³ and several times
faster than int64 on CPUs without 64-bit integer conversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SCALE_BITS = 40  # the grid is 2⁻⁴⁰ ≈ 9e-13, far below fp32's resolution at a parameter's size
LIMIT = 2.0**12  # largest |δ| admitted


@dataclass(frozen=True)
class Grid:
    """A grid on which every partial sum of one mix of deltas is exact."""

    bits: int = SCALE_BITS

    @classmethod
    def of(cls, mix: Sequence[float], norms: Sequence[float]) -> Grid:
        """The finest grid, 2⁻⁴⁰ at most, that holds Σ mixᵢ |dᵢ| for deltas of these norms.

        It is coarser only where that sum passes 2¹², which no sound round does.
        """
        largest = max(mix, default=0.0)
        if not largest:
            return cls()
        bound = math.fsum(m / largest * n for m, n in zip(mix, norms, strict=True)) + len(mix)
        return cls(min(SCALE_BITS, 52 - math.frexp(bound)[1]))

    def sum(self, rows: Sequence[Tensor], mix: Sequence[float]) -> Tensor:
        """Σ mixᵢ rowᵢ over n × (s,) fp32, rounded to fp32 once: (s,).

        The largest mix counts as 1 until the end, so equal weights are exact.
        """
        total = torch.zeros(len(rows[0]), dtype=torch.float64)
        largest = max(mix, default=0.0)
        if not largest:
            return total.float()
        scratch = torch.empty_like(total)
        for row, share in zip(rows, mix, strict=True):
            if share:
                scratch.copy_(row)
                total += scratch.mul_(math.ldexp(share / largest, self.bits)).round_()
        return total.mul_(math.ldexp(largest, -self.bits)).float()

"""Exact sums: weighted deltas rounded to a common grid, so the sum has no order and no rounding.

Multiples of 2⁻⁴⁰ are added in fp64, where 2⁵³ of them are exact. Beside 1.5 · 2⁵² grid steps a
number has no room for a finer fraction, so adding such an offset rounds it to the grid; the next
delta's offset has the other sign and takes the last one out of the sum again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gobelin.server.scratch import scratch

SCALE_BITS = 40  # the grid is 2⁻⁴⁰ ≈ 9e-13, far below fp32's resolution at a parameter's size
LIMIT = 2.0**12  # largest |δ| admitted


def exact_sum(
    rows: Sequence[Tensor], mix: Sequence[float], peaks: Sequence[float], out: Tensor
) -> None:
    """Σ mixᵢ rowᵢ over n × (s,) fp32, mixᵢ ≥ 0, on the grid and rounded once to `out`, fp32 (s,).

    The largest mix counts as 1 until the end, so equal weights are exact. No |δ| of a row's
    whole delta passes its peak (n,): where the sum could pass 2¹⁰, as in no sound round, the grid
    is so much coarser.
    """
    largest = max(mix)
    if not largest:
        out.zero_()
        return
    shares = [share / largest for share in mix]
    offset = math.ldexp(1.5, 52 - _bits(shares, peaks))
    total = scratch("total", (len(out),), torch.float64)
    place = total  # of the first term; later ones are added to it
    for row, share in zip(rows, shares, strict=True):
        if share:
            place.copy_(row)
            if share != 1:
                place.mul_(share)
            place.add_(offset)
            if place is total:
                place = scratch("term", (len(out),), torch.float64)
            else:
                total += place
            offset = -offset
    if offset < 0:  # the last one is still in the sum
        total += offset
    out.copy_(total.mul_(largest))


def _bits(shares: Sequence[float], peaks: Sequence[float]) -> int:
    """The most bits, up to 40, at which every partial sum stays below 2⁵¹ steps of the grid."""
    bound = math.fsum(share * peak for share, peak in zip(shares, peaks, strict=True))
    return min(SCALE_BITS, 50 - math.frexp(bound)[1])

"""The integer ring of sealed rounds: deltas on a declared grid, added modulo 2³².

A delta on the grid 2^−bits is exact in fp32: where |δ| · 2^bits passes 2²³, an fp32 number is an
integer multiple of the grid already. So what a sealed round adds up are fp32 deltas, and an open
round's mean of the same deltas has the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gobelin.shared.errors import GarbledSumError

Words = NDArray[np.uint32]
SPARE = 30  # a sum stays below 2³⁰, so that one that is garbage is told by its size
PIECE = 1 << 18  # scalars


def bits_for(nodes: int, bound: float) -> int:
    """The most fraction bits with which `nodes` deltas of |δ| ≤ bound add up below 2³⁰.

    Raises ValueError unless the bound is a power of two that leaves bits.
    """
    if bound <= 0 or math.frexp(bound)[0] != 0.5:
        raise ValueError(f"{bound} is no power of two")
    bits = SPARE - math.ceil(math.log2(nodes * bound))
    if not 8 <= bits <= 40:
        raise ValueError(f"{nodes} deltas of at most {bound} leave {bits} bits, not 8 … 40")
    return bits


@dataclass(frozen=True)
class Ring:
    """The grid 2^−bits, and the largest |δ| on it."""

    bits: int
    bound: float

    def round(self, values: Tensor) -> Tensor:
        """`values` (P,) fp32 on the grid, ties to even, held within ±bound: fp32 (P,), exact."""
        held = values.clamp(-self.bound, self.bound)
        return held.mul_(2.0**self.bits).round_().mul_(2.0**-self.bits)

    def words(self, values: Tensor) -> Words:
        """Values on the grid, (s,) fp32, as integers modulo 2³²; a copy."""
        return (values * 2.0**self.bits).to(torch.int32).numpy().view(np.uint32)

    def mean(self, total: Words, nodes: int) -> Tensor:
        """The mean (P,) fp32 of `nodes` deltas from their sum modulo 2³².

        Bit by bit what `server.aggregation.weighted_mean` gives for the deltas themselves, equally
        weighed. Raises GarbledSumError on a sum that no such deltas have: masks that did not
        cancel, or a node that left its range.
        """
        limit = round(nodes * self.bound * 2.0**self.bits)
        signed = total.view(np.int32)
        if len(signed) and not -limit <= int(signed.min()) <= int(signed.max()) <= limit:
            raise GarbledSumError(
                "the sum is out of range: masks did not cancel, or a node left its bound",
                "find out which node runs other software; the base stays as it is",
            )
        mean = torch.empty(len(signed))
        for start in range(0, len(signed), PIECE):
            piece = torch.from_numpy(signed[start : start + PIECE].astype(np.float64))
            mean[start : start + PIECE] = piece.mul_(2.0**-self.bits).mul_(1 / nodes)
        return mean


def threshold_of(share: float, nodes: int) -> int:
    """The fewest nodes that are more than a share of `nodes`."""
    return min(nodes, math.floor(share * nodes + 1e-9) + 1)

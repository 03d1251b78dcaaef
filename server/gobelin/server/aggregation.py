"""Aggregation: the weighted mean of deltas, one contribution at a time, in any order.

Sums are kept in fixed point (int64), so the result has the same bits whatever the order in
which contributions arrive and whatever machine adds them; memory is O(P) for any number of nodes.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.vector import ParameterSchema, ParameterVector

SCALE_BITS = 40  # resolution 2⁻⁴⁰ ≈ 9e-13, far below fp32's at the size of a parameter
LIMIT = 2.0**12  # largest |δ| admitted
CAPACITY = 2 ** (63 - SCALE_BITS - 12) - 1  # contributions of weight 1 that the sum holds


class WeightedMean:
    """A streaming Σ wᵢ δᵢ / Σ wᵢ over the parameter vector."""

    def __init__(self, schema: ParameterSchema) -> None:
        self._schema = schema
        self._sum = torch.zeros(schema.size, dtype=torch.int64)  # (P,)
        self._weight = Fraction(0)

    @property
    def weight(self) -> Fraction:
        """Σ wᵢ so far."""
        return self._weight

    def add(self, delta: ParameterVector, weight: Fraction) -> None:
        """Add one delta with a weight in (0, 1], exactly.

        Raises ValueError beyond what the fixed-point sum holds (|δ| > LIMIT or Σ w > CAPACITY).
        """
        if not 0 < weight <= 1 or self._weight + weight > CAPACITY:
            raise ValueError(f"weight {weight} does not fit the sum")
        if self._schema.size and max(map(abs, torch.aminmax(delta.values))) > LIMIT:
            raise ValueError(f"a delta exceeds {LIMIT}")
        for start in range(0, self._schema.size, 1 << 20):  # bounded scratch memory
            piece = delta.values[start : start + (1 << 20)].double()  # (≤ 2²⁰,)
            fixed = torch.round(piece * (float(weight) * 2.0**SCALE_BITS)).long()
            self._sum[start : start + (1 << 20)] += fixed
        self._weight += weight

    def mean(self) -> ParameterVector:
        """The weighted mean; raises ValueError when nothing was added."""
        if not self._weight:
            raise ValueError("the mean of no contributions")
        scale = 1.0 / (float(self._weight) * 2.0**SCALE_BITS)
        return ParameterVector(self._schema, self._rounded(scale))

    def _rounded(self, scale: float) -> Tensor:
        mean = torch.empty(self._schema.size)
        for start in range(0, self._schema.size, 1 << 20):
            piece = self._sum[start : start + (1 << 20)].double()
            mean[start : start + (1 << 20)] = (piece * scale).float()
        return mean

"""The merge of a sealed round: a mean is given, and nothing is known of what it is the mean of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from gobelin.server.geometry import Deltas
from gobelin.server.merge import Counted, Merged


@dataclass(frozen=True)
class SealedMerger:
    """Members weigh the same; their influence is told as their weight, for norms are not known."""

    mean: Tensor  # (P,) fp32

    def merge(
        self, deltas: Deltas, counted: Sequence[Counted], state: Mapping[str, Tensor]
    ) -> Merged:
        """The mean as it is; `deltas` are none, and `counted` says whose are in it."""
        names = sorted({row.member for row in counted})
        weight = Fraction(1, len(names))
        row: dict[str, Any] = {
            "weight": float(weight),
            "norm": None,
            "influence": float(weight),
            "kept": None,
            "minority_loss": None,
            "reduced": [],
        }
        unknown = dict.fromkeys(("clip", "cosine", "sign_all", "sign_most", "retained_norm"))
        return Merged(
            delta=self.mean,
            weights=dict.fromkeys(names, weight),
            step_factors=[1.0] * len(counted),
            members={name: dict(row) for name in names},
            facts={"cap": 1.0, "residual": 0.0, "sealed": True, **unknown},
            unit=1.0,
        )

"""Merge diagnostics: whether members pulled the same way, and whose way the aggregate lost.

Computed beside the aggregation, from the same pieces, in O(n) a parameter. They are for people:
fp64 sums of fp32 products, recorded with six digits, and no input of the consensus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.server.policy import clip_norm


@dataclass(frozen=True)
class Figures:
    """What one merge was like; lists are by member, in the order of the deltas."""

    cosine: float  # mean over pairs of members of the cosine between their deltas
    sign_all: float  # share of the coordinates that all members move the same way
    sign_most: float  # share of them that at least three quarters of the members do
    retained_norm: float  # ‖aggregate‖ / mean ‖d‖: 1 if all agree, 1/√n if orthogonal
    kept: list[float]  # ⟨aggregate, dᵢ⟩ / ‖dᵢ‖², in [0, 1]: a member's way that is left
    minority_loss: list[float]  # share of what the even mean keeps of it that is lost, in [0, 1]


class Diagnostics:
    """Gathers the figures of one aggregation piece by piece.

    The even mean, against which the loss is told, is the weighted mean of the deltas clipped to
    their lower median norm: every member's voice as loud as the next, so that no liar can make
    the yardstick.
    """

    def __init__(self, weights: Sequence[Fraction], norms: Sequence[float]) -> None:
        self._norms = norms
        clip = clip_norm(norms)
        even = [
            float(w) * min(1.0, clip / n) if n else 0.0 for w, n in zip(weights, norms, strict=True)
        ]
        unit = [1 / n if n else 0.0 for n in norms]
        self._mixes = torch.tensor([even, unit], dtype=torch.float32)  # (2, n)
        self._sums = torch.zeros(2 * len(norms) + 4, dtype=torch.float64)

    def of_piece(self, rows: Sequence[Tensor], aggregate: Tensor) -> Tensor:
        """Sums over one piece of n deltas, n × (s,), and its aggregate (s,)."""
        piece = torch.stack(list(rows))  # (n, s)
        even, unit = self._mixes @ piece  # (s,) each
        with_members = piece @ torch.stack([aggregate, even], dim=1)  # (n, 2)
        net = torch.sign(piece).sum(dim=0).abs()  # (s,)
        others = torch.stack(
            [
                unit.double().square().sum(),
                aggregate.double().square().sum(),
                (net == len(rows)).sum().double(),
                (net * 2 >= len(rows)).sum().double(),
            ]
        )
        return torch.cat([with_members.T.reshape(-1).double(), others])

    def add(self, piece: Tensor) -> None:
        """Count one piece's sums."""
        self._sums += piece

    def figures(self, size: int) -> Figures:
        """The figures of P parameters."""
        count = len(self._norms)
        moving = sum(1 for norm in self._norms if norm)
        sums = self._sums.tolist()
        units, square, all_, most = sums[2 * count :]
        pairs = moving * (moving - 1)
        mean_norm = math.fsum(self._norms) / count
        kept = [_share(dot, n) for dot, n in zip(sums[:count], self._norms, strict=True)]
        even = [_share(dot, n) for dot, n in zip(sums[count:], self._norms, strict=False)]
        return Figures(
            cosine=_short((units - moving) / pairs) if pairs else 1.0,
            sign_all=_short(all_ / size),
            sign_most=_short(most / size),
            retained_norm=_short(math.sqrt(square) / mean_norm) if mean_norm else 0.0,
            kept=kept,
            minority_loss=[
                _short(max(0.0, 1 - k / e)) if e else 0.0 for k, e in zip(kept, even, strict=True)
            ],
        )


def _share(product: float, norm: float) -> float:
    """The product as a share of ‖d‖², in [0, 1]."""
    return _short(min(1.0, max(0.0, product / norm**2))) if norm else 0.0


def _short(value: float) -> float:
    """Six digits."""
    return float(f"{value:.6g}")

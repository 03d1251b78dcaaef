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
from gobelin.server.scratch import scratch

COLUMNS = 1 << 16  # coordinates of all members looked at at once


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
        parts = zip(*(torch.split(row, COLUMNS) for row in (*rows, aggregate)), strict=True)
        return torch.stack([self._of_columns(part) for part in parts]).sum(dim=0)

    def _of_columns(self, part: Sequence[Tensor]) -> Tensor:
        """The sums over some columns of the deltas and, the last, the aggregate."""
        *given, aggregate = part
        count, size = len(given), len(aggregate)
        rows = scratch("stacked", (count, size), torch.float32)
        torch.stack(given, out=rows)
        mixed = scratch("mixed", (3, size), torch.float32)
        mixed[0] = aggregate
        torch.mm(self._mixes, rows, out=mixed[1:])
        with_members = torch.mm(mixed[:2], rows.T)  # (2, n)
        unit = mixed[2]
        net = torch.mv(rows.sign_().T, torch.ones(count)).abs_()  # (s,) whole numbers up to n
        others = [
            torch.dot(unit, unit),
            torch.dot(aggregate, aggregate),
            _at_least(count, net),
            _at_least((count + 1) // 2, net),
        ]
        return torch.cat([with_members.view(-1), torch.stack(others)]).double()

    def add(self, pieces: Sequence[Tensor]) -> None:
        """Count pieces' sums."""
        for piece in pieces:
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


def _at_least(least: int, whole: Tensor) -> Tensor:
    """How many of the whole numbers (s,) reach `least`: a pass less than by comparing them."""
    return (whole - (least - 1)).clamp_(0, 1).sum()


def _share(product: float, norm: float) -> float:
    """The product as a share of ‖d‖², in [0, 1]."""
    return _short(min(1.0, max(0.0, product / norm**2))) if norm else 0.0


def _short(value: float) -> float:
    """Six digits."""
    return float(f"{value:.6g}")

"""Aggregation: many members' deltas become one, piece by piece, whatever the rule.

The result has the same bits on every machine and for every order of arrival: members stand in
the order of their names, whole-vector figures are summed in a fixed order, and mixes are added on
a fixed-point grid. Memory is O(P) plus a few pieces a member, whatever the number of members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.server.diagnostics import Diagnostics, Figures
from gobelin.server.fixed_point import LIMIT, SCALE_BITS, exact_sum
from gobelin.server.geometry import Deltas, Geometry, InMemory, map_turns, norms, pieces
from gobelin.server.policy import clip_norm, influences
from gobelin.server.rules import Mix, Rule
from gobelin.server.scratch import scratch

__all__ = [
    "LIMIT",
    "SCALE_BITS",
    "Aggregate",
    "ByMember",
    "InMemory",
    "aggregate",
    "weighted_mean",
]


@dataclass(frozen=True)
class ByMember:
    """Members' deltas: the mean of each member's contributions, rounded to fp32 once.

    So a member that runs several nodes is one voice in every rule, and gains nothing by them.
    A contribution's share in its member's mean is its freshness.
    """

    deltas: Deltas
    groups: Sequence[Sequence[int]]  # of each member, its contributions' places in `deltas`
    freshness: Sequence[Fraction]  # of each contribution

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self.deltas.size

    def __len__(self) -> int:
        return len(self.groups)

    def peak(self, index: int) -> float:
        """A mean lies within what it is a mean of."""
        return max(self.deltas.peak(place) for place in self.groups[index])

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one member's delta: fp32 (end − start,)."""
        group = self.groups[index]
        if len(group) == 1:
            return self.deltas.piece(group[0], start, end)
        most = max(self.freshness[place] for place in group)
        shares = [float(self.freshness[place] / most) for place in group]
        total = scratch("nodes", (end - start,), torch.float64).zero_()
        for place, share in zip(group, shares, strict=True):
            total += self.deltas.piece(place, start, end).double() * share
        return scratch(f"member {index}", (end - start,), torch.float32).copy_(
            total.div_(math.fsum(shares))
        )


@dataclass(frozen=True)
class Scaled:
    """Deltas times factors, rounded to fp32."""

    whole: Deltas
    factors: Sequence[float]
    why: str  # names the buffers: scaled deltas may be scaled again for another reason

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self.whole.size

    def __len__(self) -> int:
        return len(self.whole)

    def peak(self, index: int) -> float:
        """What no |δ| of one delta passes, rounding included."""
        return self.whole.peak(index) * self.factors[index] * (1 + 2.0**-23)

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one delta: fp32 (end − start,)."""
        piece, factor = self.whole.piece(index, start, end), self.factors[index]
        if factor == 1:
            return piece
        exact = scratch("scaled", (end - start,), torch.float64).copy_(piece)
        own = scratch(f"{self.why} {index}", (end - start,), torch.float32)
        return own.copy_(exact.mul_(factor))


@dataclass(frozen=True)
class Extended:
    """Deltas and one vector more, the last."""

    deltas: Deltas
    last: Tensor  # (P,)

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self.deltas.size

    def __len__(self) -> int:
        return len(self.deltas) + 1

    def peak(self, index: int) -> float:
        """What no |δ| of one delta passes."""
        if index < len(self.deltas):
            return self.deltas.peak(index)
        return InMemory([self.last]).peak(0)

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one delta: fp32 (end − start,)."""
        if index < len(self.deltas):
            return self.deltas.piece(index, start, end)
        return self.last[start:end]


@dataclass(frozen=True)
class Aggregate:
    """One round's aggregate with what was measured while it was made, members in given order."""

    delta: Tensor  # (P,) fp32
    norms: list[float]  # as the members sent them
    influence: list[float]  # functional influence, see policy.influences
    clip: float | None  # the norm deltas were clipped to
    unit: float  # what influence is a share of: the norm deltas are clipped to, or Σ mⱼ‖dⱼ‖
    figures: Figures


def aggregate(
    deltas: Deltas,
    weights: Sequence[Fraction],
    rule: Rule,
    *,
    cap: float = 1.0,
    clipped: bool = False,
    previous: Tensor | None = None,
) -> Aggregate:
    """Aggregate members' deltas (n of P parameters) under weights (n,), Σ w ≤ 1.

    Σ w < 1 shrinks the step: the residual stays on the base. Under a `cap` < 1, deltas are
    clipped to their lower median norm first, for a cap on weights alone is none, and no rule puts
    more of a member in than the cap. `clipped` clips without a cap. `previous` (P,) is the last
    round's aggregate, zero if None.
    Raises ValueError on no deltas, and on weights that are not of n members or pass 1 in sum.
    """
    if not weights or len(weights) != len(deltas) or sum(weights) > 1 or min(weights) < 0:
        raise ValueError(f"{len(weights)} weights of sum {float(sum(weights))} for {len(deltas)}")
    if not deltas.size:
        raise ValueError("deltas of no parameters")
    sent = norms(deltas)
    lengths, clip, capped = sent, None, cap < 1
    if rule.clips or capped or clipped:
        clip = clip_norm(sent)
        factors = [clip / norm if norm > clip else 1.0 for norm in sent]
        deltas, lengths = Scaled(deltas, factors, "clipped"), [min(n, clip) for n in sent]
    seen: Deltas = deltas
    if rule.remembers:
        seen = Extended(deltas, torch.zeros(deltas.size) if previous is None else previous)
    mix = _held(rule.mix(Geometry(seen), weights), len(deltas), cap)
    held: Sequence[Fraction | float] = mix[: len(deltas)]
    influence = influences(held, lengths, clip if capped else None)
    moved = (float(share) * norm for share, norm in zip(held, lengths, strict=True))
    unit = clip if capped and clip is not None else math.fsum(moved)
    peaks = [seen.peak(i) for i in range(len(seen))]
    result = torch.empty(deltas.size)
    diagnostics = Diagnostics(weights, lengths)

    def turn(start: int, end: int) -> list[Tensor]:
        sums = []
        for place, rows in pieces(seen, start, end):
            rule.combine(rows, mix, peaks, result[place])
            sums.append(diagnostics.of_piece(rows[: len(deltas)], result[place]))
        return sums

    for sums in map_turns(deltas.size, turn):
        diagnostics.add(sums)
    return Aggregate(result, sent, influence, clip, unit, diagnostics.figures(deltas.size))


def _held(mix: Mix, members: int, cap: float) -> Mix:
    """The mix with no member above the cap, for a rule may favour one; the rest stays on the base.

    Weights are within the cap, so a rule that leaves them as they are finds them untouched.
    """
    if max(mix[:members]) <= cap:
        return mix
    return [min(float(share), cap) for share in mix[:members]] + list(map(float, mix[members:]))


def weighted_mean(deltas: Deltas, weights: Sequence[Fraction]) -> Tensor:
    """Σ wᵢ dᵢ (P,) alone, bit by bit what the rule `mean` gives."""
    mix = [float(weight) for weight in weights]
    peaks = [deltas.peak(i) for i in range(len(deltas))]
    result = torch.empty(deltas.size)

    def turn(start: int, end: int) -> None:
        for place, rows in pieces(deltas, start, end):
            exact_sum(rows, mix, peaks, result[place])

    for _ in map_turns(deltas.size, turn):
        pass
    return result

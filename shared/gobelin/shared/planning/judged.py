"""Candidates with what they cost and how far they break the constraints, and their order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Judged:
    """S candidates of each of B problems."""

    actions: Tensor  # (B, S, H, A)
    cost: Tensor  # (B, S), +inf where it is not a number
    violation: Tensor  # (B, S), 0 where all constraints hold
    guarded: bool  # whether there are constraints at all

    def best_first(self, count: int) -> Judged:
        """The best `count` of each problem: those that keep the constraints, then by cost.

        Among those that break them, the least violation comes first. All of them, if fewer.
        """
        count = min(count, self.cost.shape[1])
        if not self.guarded:
            return self.take(self.cost.topk(count, dim=1, largest=False).indices)
        order = self.cost.argsort(dim=1, stable=True)
        by_violation = self.violation.gather(1, order).argsort(dim=1, stable=True)
        return self.take(order.gather(1, by_violation)[:, :count])

    def take(self, index: Tensor) -> Judged:
        """Candidates by index (B, K)."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Judged(
            self.actions[rows, index],
            self.cost.gather(1, index),
            self.violation.gather(1, index),
            self.guarded,
        )

    def beside(self, other: Judged | None) -> Judged:
        """These candidates and the others of the same problems."""
        if other is None:
            return self
        return Judged(
            torch.cat([self.actions, other.actions], dim=1),
            torch.cat([self.cost, other.cost], dim=1),
            torch.cat([self.violation, other.violation], dim=1),
            self.guarded,
        )

    def winner(self, other: Judged | None) -> Judged:
        """Of these candidates, best first, and one other a problem: the best one alone."""
        mine = Judged(self.actions[:, :1], self.cost[:, :1], self.violation[:, :1], self.guarded)
        if other is None:
            return mine
        worse = other.cost <= mine.cost
        if self.guarded:
            same = mine.violation == other.violation
            worse = (other.violation < mine.violation) | (same & worse)
        return Judged(
            torch.where(worse[:, :, None, None], other.actions, mine.actions),
            torch.where(worse, other.cost, mine.cost),
            torch.where(worse, other.violation, mine.violation),
            self.guarded,
        )

"""Guardrails: what no returned plan does, whatever it would gain by it.

A guardrail speaks of what the model foresees. Where the model errs, the world may cross a line
that the plan keeps; `margin` is the room left for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Readout = Callable[[Tensor], Tensor]  # latents (..., D...) → what a limit speaks of (..., R)


class Constraint(Protocol):
    """What a plan must not do, whatever it costs."""

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """How far (B, S) each plan breaks it; 0 or less where it holds."""
        ...


@dataclass(frozen=True, eq=False)
class KeepOut:
    """What the readout says stays out of a box at every step; broken by how deep inside it goes.

    `between` points on the straight line from each step to the next are watched as well: without
    them a long step jumps over a thin box unseen.
    """

    readout: Readout
    low: Tensor  # (R,)
    high: Tensor  # (R,)
    margin: float = 0.0
    between: int = 0

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """How deep (B, S) the plan goes into the box, 0 or less if it never does."""
        seen = self.readout(latents)  # (B, S, H, R)
        if self.between and seen.shape[2] > 1:
            seen = torch.cat([seen, *self._on_the_way(seen)], dim=2)
        low, high = self.low.to(seen), self.high.to(seen)
        depth = torch.minimum(seen - (low - self.margin), (high + self.margin) - seen)
        return depth.amin(dim=-1).amax(dim=-1)

    def _on_the_way(self, seen: Tensor) -> list[Tensor]:
        shares = [(i + 1) / (self.between + 1) for i in range(self.between)]
        return [torch.lerp(seen[:, :, :-1], seen[:, :, 1:], share) for share in shares]


@dataclass(frozen=True, eq=False)
class KeepWithin:
    """What the readout says stays inside a box at every step; broken by how far outside it goes."""

    readout: Readout
    low: Tensor  # (R,)
    high: Tensor  # (R,)
    margin: float = 0.0

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """How far (B, S) the plan leaves the box, 0 or less if it never does."""
        seen = self.readout(latents)  # (B, S, H, R)
        low, high = self.low.to(seen), self.high.to(seen)
        over = torch.maximum((low + self.margin) - seen, seen - (high - self.margin))
        return over.amax(dim=(-2, -1))


@dataclass(frozen=True)
class SpendAtMost:
    """The sum of absolute actions over the whole plan stays within a budget."""

    budget: float

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """How much more than the budget (B, S) is spent, 0 or less if it is not."""
        return actions.abs().sum(dim=(-2, -1)) - self.budget

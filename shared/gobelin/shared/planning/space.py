"""The actions there are: their bounds, and how fast they may change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import PlanError


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """Bounds of each action (A,), and of its change from one step to the next, if limited.

    Raises PlanError where these are no bounds.
    """

    low: Tensor
    high: Tensor
    max_change: Tensor | None = None

    def __post_init__(self) -> None:
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            found = f"{tuple(self.low.shape)} and {tuple(self.high.shape)}"
            raise PlanError(f"bounds of actions are (A,) each, not {found}")
        if not bool((self.low < self.high).all() & (self.high - self.low).isfinite().all()):
            raise PlanError(
                "bounds of an action are not finite, or the lower not below the upper", "mend them"
            )
        if self.max_change is None:
            return
        if self.max_change.shape != self.low.shape or not bool((self.max_change > 0).all()):
            raise PlanError(
                "max_change is not (A,), or not positive", "give one above 0 for each action"
            )

    @classmethod
    def symmetric(cls, size: int, bound: float = 1.0) -> ActionSpace:
        """Every action in [−bound, bound]."""
        high = torch.full((size,), bound)
        return cls(-high, high)

    @property
    def size(self) -> int:
        """A."""
        return len(self.low)

    @property
    def centre(self) -> Tensor:
        """The middle of the bounds (A,)."""
        return (self.low + self.high) / 2

    @property
    def half_width(self) -> Tensor:
        """Half the distance between the bounds (A,)."""
        return (self.high - self.low) / 2

    def project(self, actions: Tensor, previous: Tensor | None = None) -> Tensor:
        """The allowed actions nearest step by step to `actions` (..., H, A).

        `previous` (..., A), within the bounds, is the action taken before the first, from which
        its change counts.
        """
        actions = actions.clamp(self.low, self.high)
        if self.max_change is None:
            return actions
        steps = list(actions.unbind(dim=-2))
        for t, step in enumerate(steps):
            before = steps[t - 1] if t else previous
            if before is not None:
                steps[t] = step.clamp(before - self.max_change, before + self.max_change)
        return torch.stack(steps, dim=-2)

    def like(self, other: Tensor) -> ActionSpace:
        """The same space on the device and in the dtype of `other`."""
        change = None if self.max_change is None else self.max_change.to(other)
        return ActionSpace(self.low.to(other), self.high.to(other), change)

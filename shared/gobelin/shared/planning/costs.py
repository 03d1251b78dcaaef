"""What plans are to make small, and sums of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Cost(Protocol):
    """What a plan is to make small."""

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Costs (B, S) of latents (B, S, H, D...) and actions (B, S, H, A)."""
        ...


@dataclass(frozen=True, eq=False)
class ToGoal:
    """Mean squared distance to a goal's latent, at the last step or summed over all of them.

    The last step alone is LeWM's and DINO-WM's; the sum, as eb_jepa plans, punishes detours and
    says where to go before the goal is within the horizon.
    """

    goal: Tensor  # (B, D...)
    every_step: bool = False

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Costs (B, S)."""
        judged = latents if self.every_step else latents[:, :, -1:]
        goal = self.goal[:, None, None].to(judged)
        return (judged - goal).square().flatten(3).mean(dim=-1).sum(dim=-1)


@dataclass(frozen=True)
class Effort:
    """Mean squared action: of two plans that get there, the calmer one."""

    weight: float = 1e-3

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Costs (B, S)."""
        return self.weight * actions.square().mean(dim=(-2, -1))


@dataclass(frozen=True)
class Sum:
    """Several costs together."""

    costs: Sequence[Cost]

    def __call__(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Costs (B, S)."""
        return torch.stack([cost(latents, actions) for cost in self.costs]).sum(dim=0)

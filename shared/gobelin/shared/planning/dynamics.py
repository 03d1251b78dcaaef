"""World models as planners see them, and adaptors to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Dynamics(Protocol):
    """Foresees where many candidate plans lead, for many starts at once.

    A latent may have any shape D...: a vector, a grid of tokens, a stack of the last few.
    """

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """Latents (B, S, H, D...) after each of the actions (B, S, H, A), from z0 (B, D...)."""
        ...


@dataclass(frozen=True, eq=False)
class FlatDynamics:
    """A model that knows one batch axis only, as dynamics; `Predictor.rollout` is one."""

    imagine: Callable[[Tensor, Tensor], Tensor]  # (N, D...), (N, H, A) → (N, H, D...)

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """Latents (B, S, H, D...) after each of the actions (B, S, H, A), from z0 (B, D...)."""
        problems, samples = actions.shape[:2]
        starts = z0.unsqueeze(1).expand(problems, samples, *z0.shape[1:]).flatten(0, 1)
        latents = self.imagine(starts, actions.flatten(0, 1))
        return latents.view(problems, samples, *latents.shape[1:])


@dataclass(frozen=True, eq=False)
class Cast:
    """A model that computes in another dtype than its callers, who get their own back."""

    dynamics: Dynamics
    dtype: torch.dtype

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """Latents (B, S, H, D...) in the dtype of z0 (B, D...), of the actions (B, S, H, A)."""
        return self.dynamics.rollout(z0.to(self.dtype), actions.to(self.dtype)).to(z0.dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """A model whose every action is held for some steps: long plans of few decisions.

    Returns the latents of all steps held, so that guardrails see every one.
    """

    dynamics: Dynamics
    steps: int

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """Latents (B, S, H · steps, D...) of the actions (B, S, H, A), from z0 (B, D...)."""
        return self.dynamics.rollout(z0, held(actions, self.steps))


def held(actions: Tensor, steps: int) -> Tensor:
    """Actions (..., H, A), each held: (..., H · steps, A)."""
    return actions.repeat_interleave(steps, dim=-2)

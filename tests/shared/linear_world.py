"""A linear world, in closed form: what the best plan is, is known, so planners can be held to it.

The next state is z A' + a B'. The cost is the mean squared distance of the last state to a goal
plus `effort` times the mean squared action; its least is a ridge regression on the actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearWorld:
    """States (..., D) that actions (..., A) move; a latent is the state itself."""

    drift: Tensor  # (D, D), A
    push: Tensor  # (D, A), B

    @classmethod
    def walker(cls, axes: int = 2, step: float = 0.3) -> LinearWorld:
        """A point that moves by `step` times its action, an axis each."""
        return cls(torch.eye(axes), step * torch.eye(axes))

    @classmethod
    def point_mass(cls, axes: int = 2, dt: float = 0.3) -> LinearWorld:
        """A mass whose action is its acceleration: D = 2 · axes, positions before velocities."""
        one, none = torch.eye(axes), torch.zeros(axes, axes)
        drift = torch.cat([torch.cat([one, dt * one], 1), torch.cat([none, one], 1)])
        return cls(drift, torch.cat([dt**2 / 2 * one, dt * one]))

    def rollout(self, z0: Tensor, actions: Tensor) -> Tensor:
        """States (B, S, H, D) after each of the actions (B, S, H, A), from z0 (B, D).

        Sums in a fixed order, not a matrix product, whose rounding depends on the batch.
        """
        drift, push = self.drift.to(z0), self.push.to(z0)
        state = z0[:, None].expand(*actions.shape[:2], -1)
        states = []
        for action in actions.unbind(dim=2):
            moved, pushed = state[..., None, :] * drift, action[..., None, :] * push
            state = moved.sum(dim=-1) + pushed.sum(dim=-1)
            states.append(state)
        return torch.stack(states, dim=2)

    def optimum(self, z0: Tensor, goal: Tensor, horizon: int, effort: float) -> Tensor:
        """The one best plan (B, H, A) for goals (B, D), bounds aside, in fp64; effort > 0."""
        drift, push = self.drift.double(), self.push.double()
        reach = [torch.linalg.matrix_power(drift, horizon - 1 - t) @ push for t in range(horizon)]
        moves = torch.cat(reach, dim=1)  # (D, H · A)
        still = z0.double() @ torch.linalg.matrix_power(drift, horizon).T
        size, count = moves.shape
        ridge = effort / count * torch.eye(count, dtype=torch.float64)
        wanted = (goal.double() - still) @ moves / size  # (B, H · A)
        best: Tensor = torch.linalg.solve(moves.T @ moves / size + ridge, wanted, left=False)
        return best.view(-1, horizon, push.shape[1])

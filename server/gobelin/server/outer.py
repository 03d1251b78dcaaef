"""Outer optimizers: how the consensus moves along the members' weighted mean delta.

The outer gradient is the negative mean delta; the forms are torch.optim.SGD's
(DiLoCo, arXiv:2311.08105, uses Nesterov with lr 0.7 and momentum 0.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

OuterState = Mapping[str, Tensor]


class OuterOptimizer(Protocol):
    """One step of the consensus; its state is a few named vectors of the model's size."""

    def step(self, base: Tensor, delta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """New base (P,) and state from the base (P,) and the mean delta (P,)."""
        ...


@dataclass(frozen=True)
class Sgd:
    """θ ← θ + lr · Δ; with lr = 1 the weighted mean of the members' models."""

    lr: float = 1.0

    def step(self, base: Tensor, delta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """One plain step."""
        return base + self.lr * delta, {}


@dataclass(frozen=True)
class Nesterov:
    """v ← μ v + g;  θ ← θ − lr (g + μ v)  with the outer gradient g = −Δ."""

    lr: float = 0.7
    momentum: float = 0.9

    def step(self, base: Tensor, delta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """One step with Nesterov momentum; the state is `velocity` (P,)."""
        gradient = -delta
        velocity = state.get("velocity", torch.zeros_like(base))
        velocity = self.momentum * velocity + gradient
        return base - self.lr * (gradient + self.momentum * velocity), {"velocity": velocity}


def make_outer(kind: str, lr: float, momentum: float) -> OuterOptimizer:
    """The outer optimizer named in the settings."""
    table: dict[str, OuterOptimizer] = {"sgd": Sgd(lr), "nesterov": Nesterov(lr, momentum)}
    return table[kind]

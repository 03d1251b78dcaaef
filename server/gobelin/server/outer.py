"""Outer optimizers: how the consensus moves along the members' aggregated delta.

The outer gradient is the negative delta. SGD and Nesterov are torch.optim.SGD's forms (DiLoCo,
arXiv:2311.08105, uses Nesterov with lr 0.7 and momentum 0.9); Adam is torch.optim.Adam's and
Yogi differs from it in the second moment alone (FedAdam and FedYogi, arXiv:2003.00295). All are
elementwise and free of fused operations, so a step has the same bits on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gobelin.shared.fragments import Fragment

OuterState = Mapping[str, Tensor]

PIECE = 1 << 20  # coordinates stepped at once
FIRST, SECOND, STEPS = "first_moment", "second_moment", "steps"


class OuterOptimizer(Protocol):
    """One step of the consensus; its state is a few named vectors and, for some, a step count."""

    def step(self, base: Tensor, delta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """New base (P,) and state from the base (P,) and the aggregated delta (P,)."""
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


@dataclass(frozen=True)
class Adam:
    """m ← μ m + (1 − μ) g;  u ← β₂ u + (1 − β₂) g²;  θ ← θ − lr m̂ / (√û + τ), g = −Δ.

    m̂ and û are corrected for their start at zero, as in torch.optim.Adam.
    """

    lr: float = 0.01
    momentum: float = 0.9  # μ, Adam's β₁
    beta2: float = 0.99
    tau: float = 1e-3  # Adam's ε; DiLoCo saw outer Adam unstable where it is small

    def step(self, base: Tensor, delta: Tensor, state: OuterState) -> tuple[Tensor, OuterState]:
        """One adaptive step; the state is both moments (P,) and the number of steps."""
        zeros = torch.zeros_like(base)
        square = delta * delta
        first = self.momentum * state.get(FIRST, zeros) - (1 - self.momentum) * delta
        second = self._second(state.get(SECOND, zeros), square)
        steps = int(state.get(STEPS, torch.tensor(0))) + 1
        # products instead of powers: a libm's pow differs by machine, a product does not
        bias1 = 1 - math.prod([self.momentum] * steps)
        bias2 = 1 - math.prod([self.beta2] * steps)
        scale = torch.sqrt(second) / math.sqrt(bias2) + self.tau
        moved = base - (self.lr / bias1) * (first / scale)
        return moved, {FIRST: first, SECOND: second, STEPS: torch.tensor(steps)}

    def _second(self, second: Tensor, square: Tensor) -> Tensor:
        return self.beta2 * second + (1 - self.beta2) * square


@dataclass(frozen=True)
class Yogi(Adam):
    """Adam with u ← u − (1 − β₂) sign(u − g²) g²: a lone large delta is forgotten slowly."""

    def _second(self, second: Tensor, square: Tensor) -> Tensor:
        return second - (1 - self.beta2) * (torch.sign(second - square) * square)


OUTERS: dict[str, type[Sgd] | type[Nesterov] | type[Adam]] = {
    "sgd": Sgd,
    "nesterov": Nesterov,
    "adam": Adam,
    "yogi": Yogi,
}


def state_of(fragment: Fragment, state: OuterState) -> OuterState:
    """One fragment's own state, out of that of all fragments; for a whole model, all of it."""
    prefix = _prefix(fragment)
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def with_state(fragment: Fragment, state: OuterState, own: OuterState) -> OuterState:
    """The state of all fragments after one of them has stepped."""
    prefix = _prefix(fragment)
    others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return {**others, **{prefix + name: tensor for name, tensor in own.items()}}


def _prefix(fragment: Fragment) -> str:
    if fragment.schema is fragment.whole:
        return ""
    return f"{fragment.index}.{fragment.group}." if fragment.group else f"{fragment.index}."


def step_fragment(
    outer: OuterOptimizer, fragment: Fragment, base: Tensor, delta: Tensor, state: OuterState
) -> tuple[Tensor, OuterState]:
    """New base (P,) and state from a base (P,) and the aggregated delta (P_f,) of a fragment.

    The others stay as they are, and so does their state (Streaming DiLoCo, arXiv:2501.18512).
    """
    part, own = _in_pieces(outer, fragment.take(base), delta, state_of(fragment, state))
    return fragment.put(base, part), with_state(fragment, state, own)


def _in_pieces(
    outer: OuterOptimizer, base: Tensor, delta: Tensor, state: OuterState
) -> tuple[Tensor, OuterState]:
    """The same step, which is elementwise, so that its temporaries are no vectors."""
    moved, after = torch.empty_like(base), dict[str, Tensor]()
    for start in range(0, len(base), PIECE):
        place = slice(start, start + PIECE)
        given = {name: tensor[place] if tensor.ndim else tensor for name, tensor in state.items()}
        moved[place], own = outer.step(base[place], delta[place], given)
        for name, tensor in own.items():
            if tensor.ndim:
                after.setdefault(name, torch.empty_like(base))[place] = tensor
            else:
                after[name] = tensor  # a step count, the same for every piece
    return moved, after


def make_outer(
    kind: str,
    lr: float | None = None,
    momentum: float | None = None,
    *,
    beta2: float | None = None,
    tau: float | None = None,
) -> OuterOptimizer:
    """The outer optimizer named in the settings; what is None takes the optimizer's default."""
    given = {"lr": lr, "momentum": momentum, "beta2": beta2, "tau": tau}
    known = OUTERS[kind].__dataclass_fields__
    return OUTERS[kind](**{k: v for k, v in given.items() if v is not None and k in known})

"""Merging: how the deltas of several builds on one release become one.

A delta is a build minus its release, what the papers call a task vector. All methods are pure, take
n ≥ 1 deltas (P,) in fp32 and give one (P,); chosen by name in `METHODS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.seeds import generator_of


class Method(Protocol):
    """One way to merge."""

    name: ClassVar[str]

    def merge(self, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """One delta (P,) of n deltas (P,), whose weights are positive and sum to 1."""
        ...


@dataclass(frozen=True)
class Weights:
    """Interpolation: Σ wᵢ dᵢ, the builds' weighted mean (model soups, arXiv:2203.05482)."""

    name: ClassVar[str] = "weights"

    def merge(self, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The weighted mean of the deltas."""
        return _sum(deltas, weights)


@dataclass(frozen=True)
class TaskArithmetic:
    """λ Σ dᵢ (arXiv:2212.04089); weights share out n instead of 1, so equal ones are all 1."""

    name: ClassVar[str] = "task-arithmetic"
    scale: float = 0.5  # λ

    def merge(self, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The deltas' scaled sum."""
        return self.scale * _sum(deltas, [len(deltas) * weight for weight in weights])


@dataclass(frozen=True)
class Ties:
    """Trim, elect signs, and average what agrees (TIES, arXiv:2306.01708)."""

    name: ClassVar[str] = "ties"
    density: float = 0.2  # share of a delta's parameters that is kept, the largest
    scale: float = 1.0  # λ

    def merge(self, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Of each parameter, the mean of the trimmed deltas that have the elected sign."""
        trimmed = [trim(delta, self.density) for delta in deltas]
        elected = _sum(trimmed, weights).sign()
        agree = [delta.sign() == elected for delta in trimmed]
        voices = [
            weight * kept * elected.abs() for weight, kept in zip(weights, agree, strict=True)
        ]
        total = torch.stack(voices).sum(dim=0)
        mean = _sum([voice * delta for voice, delta in zip(voices, trimmed, strict=True)])
        return torch.where(total > 0, self.scale * mean / total, 0.0)


@dataclass(frozen=True)
class Dare:
    """Drop at random, rescale, and merge as by task arithmetic (DARE, arXiv:2311.03099)."""

    name: ClassVar[str] = "dare"
    drop: float = 0.5  # p, the share of a delta's parameters that is dropped
    scale: float = 0.5  # λ
    seed: int = 0

    def merge(self, deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The scaled sum of the thinned deltas."""
        thinned = [thin(delta, self.drop, self.seed, at) for at, delta in enumerate(deltas)]
        return TaskArithmetic(self.scale).merge(thinned, weights)


METHODS: dict[str, type[Weights] | type[TaskArithmetic] | type[Ties] | type[Dare]] = {
    method.name: method for method in (Weights, TaskArithmetic, Ties, Dare)
}


def make_method(name: str, **given: float | int | None) -> Method:
    """The method of a name; what is None takes its default. Raises ConfigError."""
    if name not in METHODS:
        raise ConfigError(f"there is no way to merge {name!r}", f"known: {', '.join(METHODS)}")
    told = {key: value for key, value in given.items() if value is not None}
    odd = sorted(set(told) - set(METHODS[name].__dataclass_fields__))
    if odd:
        own = ", ".join(METHODS[name].__dataclass_fields__) or "nothing"
        raise ConfigError(f"{name} has no {odd[0]}", f"it can be told: {own}")
    method = METHODS[name](**told)  # type: ignore[arg-type]
    for key, low, high in (("density", 0, 1), ("drop", 0, 0.99), ("scale", 0, 10)):
        value = getattr(method, key, low)
        if not low <= value <= high:
            raise ConfigError(f"{key} = {value} is out of bounds", f"choose one in {low} … {high}")
    return method


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """`count` weights that sum to 1, equal ones where none are given; raises ConfigError."""
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise ConfigError(f"{len(given)} weights for {count} packages", "give each one weight")
    if not all(math.isfinite(weight) and weight > 0 for weight in given):
        raise ConfigError("a weight is not a positive number", "leave out what is to count nothing")
    return [weight / sum(given) for weight in given]


def trim(delta: Tensor, density: float) -> Tensor:
    """A delta (P,) of which the share `density` of largest magnitude is left, and zeros.

    Of several at the threshold all are kept, so that no order decides.
    """
    keep = math.ceil(density * len(delta))
    if keep == 0:
        return torch.zeros_like(delta)
    size = delta.abs()
    threshold = size.kthvalue(len(delta) - keep + 1).values
    return torch.where(size >= threshold, delta, 0.0)


def thin(delta: Tensor, drop: float, seed: int, at: int) -> Tensor:
    """A delta (P,) with each entry dropped with probability `drop`, the others over 1 − drop.

    Its expectation is the delta. Which are dropped derives from the seed and the delta's place.
    """
    kept = torch.rand(len(delta), generator=generator_of(seed, "dare", at)) >= drop
    return torch.where(kept, delta / (1 - drop), 0.0)


def _sum(deltas: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    total = torch.zeros_like(deltas[0], dtype=torch.float64)
    for delta, weight in zip(deltas, weights or [1.0] * len(deltas), strict=True):
        total.add_(delta, alpha=weight)
    return total.float()

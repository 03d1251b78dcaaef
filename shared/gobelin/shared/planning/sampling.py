"""Planners that sample: CEM, iCEM and MPPI, all problems of a batch at once on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import PlanError
from gobelin.shared.planning.judged import Judged
from gobelin.shared.planning.noise import Noise
from gobelin.shared.planning.problem import Plan, Problem


@dataclass(frozen=True)
class Cem:
    """The cross-entropy method (Rubinstein & Kroese 2004): fit a Gaussian to the elites.

    Defaults are DINO-WM's and LeWM's. The mean is always among the candidates. What is returned
    is the best plan seen, the last mean included: a mean of elites that keep a constraint need
    not keep it itself.
    """

    samples: int = 300
    iterations: int = 30
    elites: int = 30
    spread: float = 0.5  # first standard deviation, in half widths of the action's bounds
    least_spread: float = 0.01
    momentum: float = 0.0  # share of the old mean and spread that stays

    def __post_init__(self) -> None:
        check_counts(self.samples, self.iterations, self.elites)

    @torch.no_grad()
    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """The best found from `warm` (B, H, A), else from the middle of the bounds."""
        mean, spread = start_of(problem, warm, self.spread)
        least = self.least_spread * problem.own_space.half_width
        noise = Noise(problem, seed)
        best: Judged | None = None
        elites: Judged | None = None
        for iteration in range(self.iterations):
            hint = warm if iteration == 0 else None
            drawn = noise.white(self.samples)
            candidates = candidates_of(problem, hint, mean, spread, drawn)
            elites = problem.screen(candidates).best_first(self.elites)
            keep = self.momentum if iteration else 0.0
            found, middle = torch.var_mean(elites.actions, dim=1, correction=0)
            mean = torch.lerp(middle, mean, keep)
            spread = torch.lerp(found.sqrt(), spread, keep).maximum(least)
            best = elites.winner(best)
        return problem.settle(mean, best, elites)


@dataclass(frozen=True)
class Icem:
    """iCEM (arXiv:2008.06389): coloured noise, elites kept, fewer samples as it narrows."""

    samples: int = 128
    iterations: int = 6
    elites: int = 12
    spread: float = 0.5
    momentum: float = 0.1
    colour: float = 2.0  # exponent β of the noise's power spectrum 1 / f^β over the horizon
    kept: float = 0.3  # share of the elites that goes on into the next iteration
    decay: float = 1.25  # samples shrink by this an iteration, to twice the elites at least

    def __post_init__(self) -> None:
        check_counts(self.samples, self.iterations, self.elites)

    @torch.no_grad()
    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """The best found from `warm` (B, H, A), else from the middle of the bounds."""
        mean, spread = start_of(problem, warm, self.spread)
        noise = Noise(problem, seed)
        kept: Judged | None = None
        best: Judged | None = None
        elites: Judged | None = None
        for iteration in range(self.iterations):
            count = max(2 * self.elites, round(self.samples / self.decay**iteration))
            hint = warm if iteration == 0 else None
            drawn = noise.coloured(count, self.colour)
            candidates = candidates_of(problem, hint, mean, spread, drawn)
            elites = problem.screen(candidates).beside(kept).best_first(self.elites)
            found, middle = torch.var_mean(elites.actions, dim=1, correction=0)
            mean = torch.lerp(middle, mean, self.momentum)
            spread = torch.lerp(found.sqrt(), spread, self.momentum)
            kept = elites.best_first(max(1, round(self.kept * self.elites)))
            best = elites.winner(best)
        return problem.settle(mean, best, elites)


@dataclass(frozen=True)
class Mppi:
    """Model predictive path integral control (arXiv:1707.02342): elites weighed by exp(−c / τ).

    The temperature counts in standard deviations of the elites' costs, so that it means the same
    whatever the cost's unit.
    """

    samples: int = 300
    iterations: int = 10
    elites: int = 64
    spread: float = 0.5
    least_spread: float = 0.02
    temperature: float = 0.5  # τ

    def __post_init__(self) -> None:
        check_counts(self.samples, self.iterations, self.elites)
        if self.temperature <= 0:
            raise PlanError(f"a temperature of {self.temperature}", "say a positive one")

    @torch.no_grad()
    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """The best found from `warm` (B, H, A), else from the middle of the bounds."""
        mean, spread = start_of(problem, warm, self.spread)
        least = self.least_spread * problem.own_space.half_width
        noise = Noise(problem, seed)
        best: Judged | None = None
        elites: Judged | None = None
        for iteration in range(self.iterations):
            hint = warm if iteration == 0 else None
            drawn = noise.white(self.samples)
            candidates = candidates_of(problem, hint, mean, spread, drawn)
            elites = problem.screen(candidates).best_first(self.elites)
            weights = path_weights(elites, self.temperature)[:, :, None, None]  # (B, K, 1, 1)
            mean = (weights * elites.actions).sum(dim=1)
            away = (elites.actions - mean[:, None]).square()
            spread = (weights * away).sum(dim=1).sqrt().maximum(least)
            best = elites.winner(best)
        return problem.settle(mean, best, elites)


def path_weights(elites: Judged, temperature: float) -> Tensor:
    """Weights (B, K) ∝ exp(−(c − c_min) / (τ σ_c)) of elites, best first; they sum to one.

    Those that break a constraint count only where all do, and then by how far they break it.
    """
    allowed = elites.violation <= 0
    some = allowed.any(dim=1, keepdim=True)
    cost = torch.where(some, elites.cost, elites.violation)
    counted = torch.where(some, allowed, torch.ones_like(allowed)) & cost.isfinite()
    counted[:, 0] = True  # the best of all, whatever it is like
    least = cost[:, :1].nan_to_num(posinf=0.0)
    finite = torch.where(counted & cost.isfinite(), cost, least)
    number = counted.sum(dim=1, keepdim=True)
    middle = torch.where(counted, finite, 0).sum(dim=1, keepdim=True) / number
    away = torch.where(counted, finite - middle, 0)
    scale = (away.square().sum(dim=1, keepdim=True) / number).sqrt().clamp(min=1e-12)
    score = torch.where(counted, -(finite - least) / (temperature * scale), -torch.inf)
    return score.softmax(dim=1)


def start_of(problem: Problem, warm: Tensor | None, spread: float) -> tuple[Tensor, Tensor]:
    """First mean and standard deviation (B, H, A) of a search; raises PlanError if it misfits."""
    space = problem.own_space
    if warm is None:
        mean = space.centre.expand(problem.shape)
    elif warm.shape == problem.shape:
        mean = warm.to(problem.start)
    else:
        raise PlanError(f"a warm start is {problem.shape}, not {tuple(warm.shape)}")
    return mean, (spread * space.half_width).expand(problem.shape)


def candidates_of(
    problem: Problem, warm: Tensor | None, mean: Tensor, spread: Tensor, noise: Tensor
) -> Tensor:
    """Allowed candidates (B, S, H, A) about a mean (B, H, A), which is the first of them.

    With a warm start, half of them are about the middle of the bounds, lest a search never leaves
    what was good a step ago and is forbidden now.
    """
    if warm is None:
        return around(problem, mean, spread, noise)
    half = (noise.shape[1] + 1) // 2
    middle = problem.own_space.centre.expand(problem.shape)
    near = around(problem, mean, spread, noise[:, :half])
    return torch.cat([near, around(problem, middle, spread, noise[:, half:])], dim=1)


def around(problem: Problem, mean: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
    """Allowed candidates about a mean, which is the first of them."""
    candidates = torch.addcmul(mean[:, None], spread[:, None], noise)
    candidates[:, :1] = mean[:, None]
    return problem.project(candidates)


def check_counts(samples: int, iterations: int, elites: int) -> None:
    """Raises PlanError where there is nothing to choose from."""
    if min(samples, iterations, elites) < 1 or elites > samples:
        raise PlanError(
            f"{elites} elites of {samples} samples in {iterations} iterations",
            "all are at least 1, and elites no more than samples",
        )

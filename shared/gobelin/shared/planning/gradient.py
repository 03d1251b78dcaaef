"""A planner that descends: Adam on the actions of several starts, through the world model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gobelin.shared.planning.judged import Judged
from gobelin.shared.planning.noise import Noise
from gobelin.shared.planning.problem import Plan, Problem, plan_of
from gobelin.shared.planning.sampling import candidates_of, check_counts, start_of


@dataclass(frozen=True)
class Gradient:
    """Projected Adam on cost + ρ · violation; ρ grows, so that constraints win in the end.

    Finds what sampling misses in long horizons, and sticks in valleys that sampling leaves; the
    first start is the warm one, the others are random.
    """

    starts: int = 16
    iterations: int = 50
    lr: float = 0.1  # in half widths of the action's bounds
    spread: float = 0.5
    penalty: float = 1.0  # ρ at first
    growth: float = 1.1  # of ρ an iteration

    def __post_init__(self) -> None:
        check_counts(self.starts, self.iterations, 1)

    def search(self, problem: Problem, seed: int, warm: torch.Tensor | None = None) -> Plan:
        """The best plan seen on the way down, of all starts."""
        mean, spread = start_of(problem, warm, self.spread)
        width = problem.own_space.half_width
        noise = Noise(problem, seed).white(self.starts)
        actions = candidates_of(problem, warm, mean, spread, noise) / width
        actions = actions.detach().requires_grad_()
        optimizer = torch.optim.Adam([actions], lr=self.lr)
        best: Judged | None = None
        penalty = self.penalty
        for _ in range(self.iterations):
            with torch.enable_grad():
                judged = problem.screen(actions * width)
                loss = (judged.cost + penalty * judged.violation).sum()
                (actions.grad,) = torch.autograd.grad(loss, actions)
            best = _detached(judged).best_first(1).winner(best)
            actions.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            optimizer.step()
            with torch.no_grad():
                actions.copy_(problem.project(actions * width) / width)
            penalty *= self.growth
        with torch.no_grad():
            found = actions * width
            if best is not None:
                found = torch.cat([found, best.actions], dim=1)
            # the way through half widths and back may leave the bounds by a rounding
            return plan_of(problem.judge(problem.project(found)))


def _detached(judged: Judged) -> Judged:
    return Judged(
        judged.actions.detach(), judged.cost.detach(), judged.violation.detach(), judged.guarded
    )

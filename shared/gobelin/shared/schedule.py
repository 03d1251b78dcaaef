"""The schedule: how many local steps every round of a federation takes."""

from __future__ import annotations

from dataclasses import dataclass

from gobelin.protocols.messages import RoundPlan


@dataclass(frozen=True)
class Schedule:
    """One local step in each of the first `warmup_rounds`, then H (post-local SGD,
    arXiv:1808.07217).

    With one step a round the members' mean is a step on all their data. That matters while a model
    is young and finds how to lay out the world: where each member knows a part, members who find
    it apart lay their parts one on another.
    """

    rounds: int
    local_steps: int  # H
    warmup_rounds: int = 0

    @classmethod
    def of(cls, plan: RoundPlan) -> Schedule:
        """The schedule that a round's plan is part of."""
        return cls(plan.rounds, plan.local_steps, plan.warmup_rounds)

    def steps_of(self, number: int) -> int:
        """Local steps of round `number`, counted from 1."""
        return 1 if number <= self.warmup_rounds else self.local_steps

    def first_step(self, number: int) -> int:
        """The global step at which round `number` starts, counted from 0."""
        before, warm = number - 1, min(number - 1, self.warmup_rounds)
        return warm + (before - warm) * self.local_steps

    @property
    def total_steps(self) -> int:
        """Steps of the whole federation; the learning rate's warm-up and cosine run over them."""
        return self.first_step(self.rounds + 1)

"""One round's merge: policy and rule applied to the nodes' deltas, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from gobelin.server.aggregation import ByMember, aggregate
from gobelin.server.geometry import Deltas
from gobelin.server.policy import equal_scores, member_weights
from gobelin.server.rules import Mean, Rule

PREVIOUS = "previous"  # name of the last aggregate in the merge's state
HALF = 0.5  # a member that loses more than this share of its voice is warned about


@dataclass(frozen=True)
class Counted:
    """One contribution as the merge counts it: whose it is, and what bears on its weight."""

    member: str


@dataclass(frozen=True)
class Merged:
    """What a round's contributions come to."""

    delta: Tensor  # (P,) fp32
    weights: Mapping[str, Fraction]  # by member
    members: dict[str, dict[str, float]]  # by member: weight, influence, minority loss, …
    facts: dict[str, Any]  # of the whole merge
    state: Mapping[str, Tensor] = field(default_factory=dict)  # for the next round

    @property
    def minority(self) -> dict[str, float]:
        """Members that lost more than half of their voice, and how much of it."""
        losses = {name: row["minority_loss"] for name, row in self.members.items()}
        return {name: loss for name, loss in losses.items() if loss > HALF}


@dataclass(frozen=True)
class Merger:
    """A rule under a cap on every member's weight and influence."""

    rule: Rule = field(default_factory=Mean)
    cap: float = 1.0

    def merge(
        self, deltas: Deltas, counted: Sequence[Counted], state: Mapping[str, Tensor]
    ) -> Merged:
        """Merge nodes' deltas, in the order of their nodes' ids, each as it is counted.

        `state` is the last round's `Merged.state`, empty at first.
        """
        names = sorted({row.member for row in counted})
        groups = [[i for i, row in enumerate(counted) if row.member == name] for name in names]
        weights = member_weights(equal_scores(names), self.cap)
        shares = [weights[name] for name in names]
        capped = self.cap < 1
        made = aggregate(
            ByMember(deltas, groups),
            shares,
            self.rule,
            capped=capped,
            previous=state.get(PREVIOUS),
        )
        figures = made.figures
        columns = {
            "weight": [float(share) for share in shares],
            "norm": made.norms,
            "influence": made.influence,
            "kept": figures.kept,
            "minority_loss": figures.minority_loss,
        }
        return Merged(
            delta=made.delta,
            weights=weights,
            members={
                name: {column: values[i] for column, values in columns.items()}
                for i, name in enumerate(names)
            },
            facts={
                "cap": self.cap,
                "clip": made.clip,
                "residual": float(1 - sum(shares)),
                "cosine": figures.cosine,
                "sign_all": figures.sign_all,
                "sign_most": figures.sign_most,
                "retained_norm": figures.retained_norm,
            },
            state={PREVIOUS: made.delta} if self.rule.remembers else {},
        )


def accumulate(
    totals: Mapping[str, float], members: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Every member's influence summed over the rounds so far, those who stayed away included."""
    now = {name: row["influence"] for name, row in members.items()}
    return {name: totals.get(name, 0.0) + now.get(name, 0.0) for name in {**totals, **now}}

"""One round's merge: policy and rule applied to the nodes' deltas, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from torch import Tensor

from gobelin.server.aggregation import Aggregate, ByMember, Scaled, aggregate
from gobelin.server.evidence import LEAST, MOST, of_members, relative
from gobelin.server.geometry import Deltas
from gobelin.server.policy import PolicyError, common_steps, equal_scores, member_weights
from gobelin.server.reasons import ReductionCode
from gobelin.server.rules import Mean, Rule

PREVIOUS = "previous"  # name of the last aggregate in the merge's state
HALF = 0.5  # a member that loses more than this share of its voice is warned about


@dataclass(frozen=True)
class Counted:
    """One contribution as the merge counts it: whose it is, and what bears on its weight."""

    member: str
    steps: int = 1  # local steps it took, as it says
    freshness: Fraction = Fraction(1)  # see `policy.freshness`
    score: float | None = None  # evidence, where it was measured; see `evidence`
    modality: str = ""  # of the data it is trained on; empty where there is only one


@dataclass(frozen=True)
class Merged:
    """What a round's contributions come to."""

    delta: Tensor  # (P,) fp32
    weights: Mapping[str, Fraction]  # by member
    step_factors: Sequence[float]  # of each contribution, 1 where all took as many local steps
    members: dict[str, dict[str, Any]]  # by member: weight, influence, minority loss, …
    facts: dict[str, Any]  # of the whole merge
    unit: float  # what influence is a share of
    state: Mapping[str, Tensor] = field(default_factory=dict)  # for the next round

    @property
    def reduced(self) -> dict[str, list[ReductionCode]]:
        """Members that count for less than by themselves, and the reasons."""
        return {name: row["reduced"] for name, row in self.members.items() if row["reduced"]}

    @property
    def minority(self) -> dict[str, float]:
        """Members that lost more than half of their voice, and how much of it."""
        losses = {name: row["minority_loss"] for name, row in self.members.items()}
        return {name: loss for name, loss in losses.items() if loss is not None and loss > HALF}


class Merges(Protocol):
    """What makes one delta of a round's contributions."""

    def merge(
        self, deltas: Deltas, counted: Sequence[Counted], state: Mapping[str, Tensor]
    ) -> Merged:
        """Merge nodes' deltas, as `Merger` does."""
        ...


@dataclass(frozen=True)
class Merger:
    """A rule under a cap on every member's weight and influence; weights equal or by evidence."""

    rule: Rule = field(default_factory=Mean)
    cap: float = 1.0
    by_evidence: bool = False

    def merge(
        self, deltas: Deltas, counted: Sequence[Counted], state: Mapping[str, Tensor]
    ) -> Merged:
        """Merge nodes' deltas, in the order of their nodes' ids, each as it is counted.

        `state` is the last round's `Merged.state`, empty at first.
        """
        names = sorted({row.member for row in counted})
        groups = [[i for i, row in enumerate(counted) if row.member == name] for name in names]
        factors = step_factors(counted)
        uneven = any(factor != 1 for factor in factors)
        shortened = [any(factors[node] < 1 for node in own) for own in groups]
        scores = self._scores(names, counted)
        fresh = [row.freshness for row in counted]
        freshest = [max(fresh[node] for node in own) for own in groups]
        voices = {name: scores[name] * most for name, most in zip(names, freshest, strict=True)}
        weights = member_weights(voices, self.cap)
        shares = [weights[name] for name in names]
        made = aggregate(
            ByMember(Scaled(deltas, factors, "normalised") if uneven else deltas, groups, fresh),
            shares,
            self.rule,
            cap=self.cap,
            clipped=uneven,
            previous=state.get(PREVIOUS),
        )
        figures = made.figures
        columns: dict[str, Sequence[Any]] = {
            "weight": [float(share) for share in shares],
            "norm": made.norms,
            "influence": made.influence,
            "kept": figures.kept,
            "minority_loss": figures.minority_loss,
            "reduced": self._reductions(scores, voices, weights, made, shortened),
        }
        return Merged(
            delta=made.delta,
            weights=weights,
            step_factors=factors,
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
            unit=made.unit,
            state={PREVIOUS: made.delta} if self.rule.remembers else {},
        )

    def _scores(self, names: Sequence[str], counted: Sequence[Counted]) -> dict[str, Fraction]:
        """What weights go by, of each member; raises PolicyError where evidence is missing."""
        if not self.by_evidence:
            return equal_scores(names)
        measured = [(row.member, row.score) for row in counted if row.score is not None]
        if len(measured) < len(counted):
            raise PolicyError("a contribution has no score", "set policy.probe")
        return relative(of_members(measured))

    def _reductions(
        self,
        scores: Mapping[str, Fraction],
        voices: Mapping[str, Fraction],
        weights: Mapping[str, Fraction],
        made: Aggregate,
        shortened: Sequence[bool],
    ) -> list[list[ReductionCode]]:
        """Why each member, in the order of the names, counts for less than by itself."""
        free = member_weights(voices)
        rows = []
        for name, norm, short in zip(scores, made.norms, shortened, strict=True):
            reasons = {
                ReductionCode.FLOOR: self.by_evidence and scores[name] == LEAST,
                ReductionCode.CEILING: self.by_evidence and scores[name] == MOST,
                ReductionCode.LATE: voices[name] < scores[name],
                ReductionCode.CAPPED: weights[name] < free[name],
                ReductionCode.NORMALISED: short,
                ReductionCode.CLIPPED: made.clip is not None and norm > made.clip,
            }
            rows.append([reason for reason, holds in reasons.items() if holds])
        return rows


def step_factors(counted: Sequence[Counted]) -> list[float]:
    """What each delta is multiplied by so that all are of as many local steps: τ / τᵢ.

    Their sum under weights is then FedNova's (arXiv:2007.07481). Steps are self-reported, so
    uneven ones are no lever: deltas so scaled are clipped to their lower median norm.
    """
    by_member: dict[str, list[int]] = {}
    for row in counted:
        by_member.setdefault(row.member, []).append(row.steps)
    common = common_steps(by_member)
    return [common / row.steps for row in counted]


def accumulate(
    totals: Mapping[str, float], members: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Every member's influence summed over the rounds so far, those who stayed away included."""
    now = {name: row["influence"] for name, row in members.items()}
    return {name: totals.get(name, 0.0) + now.get(name, 0.0) for name in {**totals, **now}}

"""Contribution policy: what a member weighs, and how far it moved the consensus.

Weights are per member, never per node, from scores the aggregator measured or equal ones, and
capped. What a member says of itself is no input here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

from gobelin.shared.errors import GobelinError

FRESH = 1 << 20  # units of a fresh contribution


class PolicyError(GobelinError):
    """A score or a cap is not a number a weight can be made of."""

    code, exit_code = "policy", 26


def equal_scores(members: Sequence[str]) -> dict[str, Fraction]:
    """The score 1 for every member: the default."""
    return dict.fromkeys(members, Fraction(1))


def freshness(staleness: int, decay: float) -> Fraction:
    """What a contribution from `staleness` rounds ago still counts for: (1 + s)^−decay.

    FedAsync's (arXiv:1903.03934), to 20 bits, by decimal arithmetic: the same on every machine.
    """
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        share = Decimal(1 + staleness) ** -Decimal(repr(decay))
        return Fraction(round(share * FRESH), FRESH)


def member_weights(scores: Mapping[str, float | Fraction], cap: float = 1.0) -> dict[str, Fraction]:
    """Water-filling wᵢ = min(cap, λ sᵢ), exact, Σ w = 1 where the cap allows it.

    Where it does not (positive scores · cap < 1), every weight stays at the cap and the residual
    1 − Σ w stays on the base: weights are never renormalised, for that would lift members over
    the cap. Raises PolicyError on a score that is NaN, infinite or negative, and on a cap
    outside of (0, 1].
    """
    if not 0 < cap <= 1:
        raise PolicyError(f"a cap of {cap}", "choose policy.cap in (0, 1]")
    for member, score in scores.items():
        if not math.isfinite(score) or score < 0:
            raise PolicyError(
                f"member {member} has the score {score}", "give a finite score, 0 or more"
            )
    most = Fraction(cap)
    exact: dict[str, Fraction] = {member: Fraction(score) for member, score in scores.items()}
    left, total = Fraction(1), sum(exact.values(), Fraction(0))  # to share out, among how much
    weights = {member: Fraction(0) for member in exact}
    for member in sorted(exact, key=lambda m: exact[m], reverse=True):
        if part := exact[member]:
            weights[member] = min(most, left * part / total)
            left -= weights[member]
            total -= part
    return weights


def clip_norm(norms: Sequence[float]) -> float:
    """The lower median of the norms that are not zero, 0 if all are: what deltas are clipped to.

    The lower one, so that of two members the larger cannot choose it; without zeros, so that
    members who send nothing cannot stop the others.
    """
    moving = sorted(norm for norm in norms if norm > 0)
    return moving[(len(moving) - 1) // 2] if moving else 0.0


def common_steps(steps: Mapping[str, Sequence[int]]) -> int:
    """τ, the local steps deltas of unequal length are scaled to, from each member's nodes' steps.

    FedNova (arXiv:2007.07481) takes the mean of the members'. Here it is their lower median, for
    steps are what nodes say of themselves: one who claims many where the others took few would
    multiply everyone's delta through the mean.
    """
    return _lower_median([_lower_median(own) for own in steps.values()])


def _lower_median(values: Sequence[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]


def influences(
    mix: Sequence[Fraction | float],
    norms: Sequence[float],
    reference: float | None = None,
) -> list[float]:
    """Functional influence uᵢ = mᵢ‖dᵢ‖ / Σⱼ mⱼ‖dⱼ‖ of each member on one round.

    m is how much of each delta the rule puts in: the weights, or less or more of them. Under a
    cap, `reference` is the norm all deltas were clipped to, and what mix and short deltas leave
    unused counts for the base: the denominator is `reference`, so that uᵢ ≤ mᵢ ≤ cap whatever
    the others send, and 1 − Σ u is the base's own share.
    """
    if reference is None:
        moved = [float(share) * norm for share, norm in zip(mix, norms, strict=True)]
        whole = math.fsum(moved)
        return [part / whole if whole else 0.0 for part in moved]
    return [
        float(share) * min(1.0, norm / reference) if reference else 0.0
        for share, norm in zip(mix, norms, strict=True)
    ]

"""Evidence: what the aggregator measured of contributions' worth, and what follows from it.

A score is loss(θ) − loss(θ + d) on images no member chose (LossScore of Gauntlet,
arXiv:2505.21684): above zero where the contribution helps. It is measured once, rounded to a
grid, recorded, and taken from the record ever after: a replay on another machine, where the last
bits of a loss differ, finds the same weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gobelin.server.policy import PolicyError
from gobelin.server.reasons import Refusal, RefusalCode

if TYPE_CHECKING:  # who reads a round's journal needs no tensors
    from gobelin.shared.vector import ParameterVector

GRID = 2.0**-16  # of scores; far below what a round is worth, far above the noise of fp32 sums
LEAST, MOST = Fraction(1, 2), Fraction(2)  # of the median member's voice
ENOUGH = 4  # scores, to speak of their spread
REMEMBERED = 32  # members' scores of past rounds
NORMAL = 1.4826  # standard deviation over median absolute deviation, of a normal distribution
NARROWEST = 0.1  # spread, as a share of the median |score|: agreement alone condemns nobody

K = TypeVar("K")  # what contributions are known by


class Evidence(Protocol):
    """A source of scores; nothing a member says of its own contribution is one."""

    def score(self, base: ParameterVector, delta: ParameterVector) -> float:
        """What base + delta is better by than base, on the grid; NaN where it is no model."""
        ...


def on_grid(value: float) -> float:
    """The nearest multiple of the grid; NaN where the value is not finite."""
    return round(value / GRID) * GRID if math.isfinite(value) else math.nan


def relative(scores: Mapping[str, float]) -> dict[str, Fraction]:
    """Members' scores for weights: in units of their lower median, held within [½, 2].

    The median is of the positive scores, so that members who help set the unit. Bounded, since a
    probe is one look at the world: a member whose data differ from it is no worse for that, and
    keeps half of a median voice; one that has trained on the probe gains twice a voice at most.
    All 1 where nobody helped.
    """
    helping = sorted(score for score in scores.values() if score > 0)
    if not helping:
        return dict.fromkeys(scores, Fraction(1))
    unit = Fraction(helping[(len(helping) - 1) // 2])
    return {m: min(MOST, max(LEAST, Fraction(score) / unit)) for m, score in scores.items()}


def quality_floor(scores: Sequence[float], history: Sequence[float], tau: float) -> float:
    """The least score admitted, −τ · sd (not above 0); −∞ where too few scores tell of a spread.

    sd is the robust one (median absolute deviation) of the members' scores in this round, or of
    `history` where they are fewer than 4, and at least a tenth of their median size.
    """
    known = scores if len(scores) >= ENOUGH else history
    if len(known) < ENOUGH:
        return -math.inf
    middle = statistics.median(known)
    deviation = NORMAL * statistics.median(abs(score - middle) for score in known)
    return -tau * max(deviation, NARROWEST * statistics.median(map(abs, known)), GRID)


def harmful(
    rows: Mapping[K, Mapping[str, Any]], history: Sequence[float], tau: float
) -> dict[K, Refusal]:
    """Refusals of contributions below the floor that `rows`, the records of all, set; by key."""
    scored = {key: row for key, row in rows.items() if "score" in row.get("measured", {})}
    scores = {key: float(row["measured"]["score"]) for key, row in scored.items()}
    members = of_members([(row["member"], scores[key]) for key, row in scored.items()])
    floor = quality_floor(list(members.values()), history, tau)
    return {
        key: Refusal(
            RefusalCode.QUALITY_FLOOR,
            f"score {score:.3g} on the probe, the floor is {floor:.3g}",
        )
        for key, score in scores.items()
        if score < floor
    }


def of_members(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Each member's score: the mean of its nodes', so that more nodes gain nothing.

    Raises PolicyError on a score that is NaN or infinite.
    """
    members: dict[str, list[Fraction]] = {}
    for member, score in scores:
        if not math.isfinite(score):
            raise PolicyError(
                f"member {member} has the score {score}", "give a finite score, 0 or more"
            )
        members.setdefault(member, []).append(Fraction(score))
    return {m: float(sum(own, Fraction(0)) / len(own)) for m, own in sorted(members.items())}


def remember(history: Sequence[float], scores: Mapping[str, float]) -> list[float]:
    """The history with a sealed round's member scores, in the order of the members."""
    return [*history, *(scores[member] for member in sorted(scores))][-REMEMBERED:]

"""The federation premium as this node measures it: the consensus beside its solo model.

Both are judged on the same held-out samples of this node. The solo model has had a share of the
node's compute, so it is behind; comparing it as it is with the consensus of today would call the
difference in training a gift of the federation. So the consensus is taken as it was when this node
had put as many samples into it as the solo model has seen, between two rounds by a line; what the
solo model has not seen yet is told, and nothing is extrapolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Z95 = 1.96


@dataclass(frozen=True)
class Point:
    """The quality of a model after some of this node's samples."""

    at: int  # the consensus: the round it was the base of; the solo model: its steps
    samples: int  # of this node's, seen by the solo model, or put into the consensus
    percent: float


@dataclass(frozen=True)
class Premium:
    """Consensus minus solo at equally many of this node's samples, in percentage points."""

    points: float
    error: float  # half of the 95 % interval, from the held-out samples alone
    consensus: float  # %, as far as the solo model is
    solo: float  # %
    samples: int  # that either had seen of this node's
    of: int  # samples this node has put into the federation so far
    today: float  # newest consensus minus newest solo model, whatever each has seen

    @property
    def seen(self) -> float:
        """The share, 0 … 1, of this node's contributed samples at which the premium is told."""
        return min(1.0, self.samples / self.of) if self.of else 1.0

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "seen": self.seen}


def premium_of(
    consensus: Sequence[Point], solo: Sequence[Point], contributed: int, held_out: int
) -> Premium | None:
    """The newest premium that can be told; None before there is any. Points by rising samples."""
    found = premiums(consensus, solo)
    if not found:
        return None
    last, q_c = found[-1]
    return Premium(
        points=q_c - last.percent,
        error=half_width(q_c, last.percent, held_out),
        consensus=q_c,
        solo=last.percent,
        samples=last.samples,
        of=contributed,
        today=consensus[-1].percent - solo[-1].percent,
    )


def premiums(consensus: Sequence[Point], solo: Sequence[Point]) -> list[tuple[Point, float]]:
    """Each look at the solo model that can be compared, and the consensus's quality (%) there.

    The start, where both are the same model, is none.
    """
    found = []
    for point in solo:
        beside = _at(consensus, point.samples)
        if beside is not None and point.samples:
            found.append((point, beside))
    return found


def half_width(one: float, other: float, samples: int) -> float:
    """Half of the 95 % interval of the difference of two percentages of as many samples each.

    By the normal approximation, as if the samples were not the same: so rather too wide. Half a
    sample is added to either side, or all and none would be certain.
    """
    total = 0.0
    for percent in (one, other):
        share = (samples * percent / 100 + 0.5) / (samples + 1)
        total += share * (1 - share) / samples
    return 100 * Z95 * math.sqrt(total)


def _at(points: Sequence[Point], samples: int) -> float | None:
    """The quality at a number of samples, by a line between two points; None beyond the last."""
    for before, after in itertools.pairwise(points):
        if before.samples <= samples <= after.samples and after.samples > before.samples:
            share = (samples - before.samples) / (after.samples - before.samples)
            return before.percent + share * (after.percent - before.percent)
    exact = [point.percent for point in points if point.samples == samples]
    return exact[-1] if exact else None

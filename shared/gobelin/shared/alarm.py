"""The collapse alarm: whether a model's health says that its representation has collapsed.

Three kinds. *Point*: all inputs become one embedding. *Line*: they differ in one direction alone.
*Dimensional*: in far fewer directions than before. How many are few depends on model and data (a
sound small model on Fashion-MNIST has an effective rank of 4 to 10 of 128, an untrained one on
simple images of 2), so the last is told only beside the health of a model known to be sound, such
as the base or the best of the run so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who compares recorded figures needs no tensors
    from gobelin.shared.health import Health

LEAST_SPREAD = 1e-4  # of the mean square; below it embeddings are an offset with dust on it
POINT_SCORE = 0.39  # T / N; 0.402 to 0.409 for one point at the origin, more for one elsewhere
POINT_DEVIATION = 0.1  # of projections, whose T / N is then about POINT_SCORE
LINE_RANK = 1.5
MANY = 4  # directions there must be for one to be too few
RANK_KEPT = 0.25  # of the sound model's effective rank; sound runs kept 0.4 and more
DEVIATION_KEPT = 0.01  # of its mean deviation


class Collapse(StrEnum):
    """How embeddings have collapsed."""

    POINT = "point"
    LINE = "line"
    DIMENSIONAL = "dimensional"


@dataclass(frozen=True)
class Alarm:
    """What has collapsed, and the figure that shows it."""

    kind: Collapse
    found: str


def collapse_alarm(now: Health, sound: Health | None = None) -> Alarm | None:
    """The alarm that a model's health gives, if any, beside that of a sound model where known."""
    alarm = _point(now) or _line(now)
    if alarm is None and sound is not None:
        return _fallen(now, sound)
    return alarm


def _point(now: Health) -> Alarm | None:
    """The alarm of embeddings that are one point."""
    for what, share in (("features", now.spread), ("projections", now.projected_spread)):
        if share < LEAST_SPREAD:
            found = f"{share:.1e} of the {what}' mean square is variance"
            return Alarm(Collapse.POINT, found)
    return None


def _line(now: Health) -> Alarm | None:
    """The alarm of embeddings that vary in one direction."""
    if min(now.dim, now.samples - 1) < MANY:
        return None
    for what, rank in (("features", now.effective_rank), ("projections", now.projected_rank)):
        if rank < LINE_RANK:
            return Alarm(Collapse.LINE, f"the {what}' effective rank is {rank:.2f}")
    return None


def _fallen(now: Health, sound: Health) -> Alarm | None:
    """The alarm of embeddings that have lost most of what a sound model's had."""
    if now.deviation_mean < DEVIATION_KEPT * sound.deviation_mean:
        found = f"features deviate by {now.deviation_mean:.2e}, once {sound.deviation_mean:.2e}"
        return Alarm(Collapse.POINT, found)
    shrunk = now.projected_deviation < POINT_DEVIATION and now.collapse > POINT_SCORE
    if shrunk and sound.collapse < POINT_SCORE / 2:  # projections may well start out small
        found = f"projections deviate by {now.projected_deviation:.2e}, T / N {now.collapse:.3f}"
        return Alarm(Collapse.POINT, found)
    ranks = {
        "features": (now.effective_rank, sound.effective_rank),
        "projections": (now.projected_rank, sound.projected_rank),
    }
    for what, (rank, before) in ranks.items():
        if rank < RANK_KEPT * before:
            found = f"the {what}' effective rank is {rank:.2f}, once {before:.2f}"
            return Alarm(Collapse.DIMENSIONAL, found)
    return None

"""The federation premium of a release, as its members report it.

A member measures it on its own held-out samples, and nobody can check that: it is no evidence, and
no weight depends on it. What it can do is hold a release back, and there the members' median
decides, which no minority of them can move beyond what the others say.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gobelin.protocols.messages import METRIC_PREMIUM_SEEN, METRICS_PREMIUM

MEASURES = {"probe": "of a linear probe", "identification": "of identification without labels"}


@dataclass(frozen=True)
class Reported:
    """What members say by one measure, in percentage points."""

    measure: str
    members: Mapping[str, float]  # the mean of a member's nodes
    mean: float
    median: float
    least: float
    seen: float  # share of its samples at which a member tells it, mean over members

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class PremiumReport:
    """What the members who contributed to one round say of their premium."""

    of: int  # members who contributed
    told: int  # of them, who told any premium
    by: tuple[Reported, ...]  # a measure each: points of different ones do not add up

    @property
    def mean(self) -> float | None:
        """By the measure that most members used; None where none told any."""
        return max(self.by, key=lambda each: len(each.members)).mean if self.by else None

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {"of": self.of, "told": self.told, "by": [each.facts() for each in self.by]}


def premium_report(contributions: Iterable[Mapping[str, Any]]) -> PremiumReport:
    """Of the rows that a round's checkpoint has of its counted contributions."""
    rows = list(contributions)
    by = [of_measure for name in METRICS_PREMIUM if (of_measure := _reported(name, rows))]
    told = {member for each in by for member in each.members}
    return PremiumReport(len({str(row["member"]) for row in rows}), len(told), tuple(by))


def why_held(report: PremiumReport, least: float, share: float) -> str:
    """Why a release that asks for a premium of `least` points, told by `share` of the members, is
    held back; "" where it is not. By every measure that members used, the median counts."""
    if report.told < share * report.of or not report.told:
        return f"{report.told} of {report.of} members told their premium, {share:.0%} must"
    low = [each for each in report.by if each.median < least]
    return "; ".join(
        f"the members' median premium is {each.median:+.1f} points {MEASURES[each.measure]}, "
        f"at least {least:+.1f} is asked for"
        for each in low
    )


def section(report: PremiumReport) -> list[str]:
    """Markdown of the model card."""
    lines = ["## What federating gave its members", ""]
    if not report.told:
        return [*lines, f"None of {report.of} members reported its federation premium."]
    lines += [
        f"As reported by {report.told} of {report.of} members, each by a solo model of its own on "
        "its own held-out samples, at equally many of its samples seen; in percentage points, and "
        "not checked by anybody:",
        "",
        "| measure | members | mean | median | least | share of samples seen by the solo models |",
        "|---|---|---|---|---|---|",
    ]
    for each in report.by:
        figures = f"{each.mean:+.1f} | {each.median:+.1f} | {each.least:+.1f} | {each.seen:.0%}"
        lines.append(f"| {MEASURES[each.measure]} | {len(each.members)} | {figures} |")
    return lines


def _reported(measure: str, rows: list[Mapping[str, Any]]) -> Reported | None:
    name = METRICS_PREMIUM[measure]
    points: dict[str, list[float]] = {}
    seen: dict[str, list[float]] = {}
    for row in rows:
        metrics = row.get("metrics", {})
        if name in metrics:
            points.setdefault(str(row["member"]), []).append(float(metrics[name]))
            told = float(metrics.get(METRIC_PREMIUM_SEEN, 0.0))
            seen.setdefault(str(row["member"]), []).append(told)
    if not points:
        return None
    members = {member: statistics.fmean(points[member]) for member in sorted(points)}
    return Reported(
        measure=measure,
        members=members,
        mean=statistics.fmean(members.values()),
        median=statistics.median(members.values()),
        least=min(members.values()),
        seen=statistics.fmean(statistics.fmean(told) for told in seen.values()),
    )

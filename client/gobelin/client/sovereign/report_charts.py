"""Charts of a sovereign build's report, in the page's own ink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gobelin.client.sovereign.report import SOVEREIGN, Found, Point, Report
from gobelin.shared.evaluation.charts import COLOURS, INK, ink_figure, svg_of
from gobelin.shared.evaluation.intervals import Interval

WIDTH, HEIGHT = 4.6, 3.0  # inches: legible on a phone
ORDER = (SOVEREIGN, "consensus", "scratch", "solo")


def colour_of(role: str, others: Sequence[str] = ()) -> str:
    """A role's colour, the same in every chart."""
    known = [*ORDER, *(name for name in others if name not in ORDER)]
    place = known.index(role) if role in known else len(known)
    return COLOURS[place % len(COLOURS)]


def gains_svg(gains: Mapping[str, Interval], titles: Mapping[str, str]) -> str:
    """What the sovereign model is ahead of each other, with the intervals."""
    figure, axes = ink_figure(WIDTH, 0.9 + 0.45 * len(gains))
    rows = list(gains.items())[::-1]  # from below
    for row, (role, gain) in enumerate(rows):
        axes.plot([gain.low, gain.high], [row, row], color=colour_of(role), lw=3, alpha=0.6)
        axes.plot([gain.value], [row], "o", color=colour_of(role), ms=7)
    axes.axvline(0, color=INK, lw=1)
    names = [f"over {titles[role]}" for role, _ in rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points")
    axes.grid(axis="x", alpha=0.2, color=INK)
    return svg_of(figure, "gains")


def curve_svg(points: Sequence[Point], titles: Mapping[str, str]) -> str:
    """Accuracy by labels a class."""
    figure, axes = ink_figure(WIDTH, HEIGHT)
    for role in dict.fromkeys(point.role for point in points):
        own = [point for point in points if point.role == role]
        at, colour = [point.shots for point in own], colour_of(role)
        values = [point.accuracy.value for point in own]
        lows, highs = zip(*((p.accuracy.low, p.accuracy.high) for p in own), strict=True)
        axes.fill_between(at, lows, highs, color=colour, alpha=0.15, lw=0)
        axes.plot(at, values, "o-", color=colour, ms=4, lw=1.6, label=titles[role])
    axes.set_xscale("log")
    ticks = sorted({point.shots for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    _finish(axes, "labels a class", "accuracy, %")
    return svg_of(figure, "few-shot")


def shift_svg(found: Sequence[Found]) -> str:
    """Mean accuracy under corruptions by how severe they are; 0 is as it was."""
    figure, axes = ink_figure(WIDTH, HEIGHT)
    for each in found:
        if each.shift is None:
            continue
        severities = sorted({s for by in each.shift.corrupted.values() for s in by})
        means = [_mean([by[s] for by in each.shift.corrupted.values()]) for s in severities]
        at, values = [0, *severities], [each.shift.clean, *means]
        colour = colour_of(each.role)
        axes.plot(at, values, "o-", color=colour, ms=4, lw=1.6, label=each.title)
        axes.set_xticks(at)
    _finish(axes, "severity", "accuracy, %")
    return svg_of(figure, "shift")


def reliability_svg(found: Found) -> str:
    """How often it is right by how sure it is; points are as large as the bins are full."""
    assert found.calibration is not None
    figure, axes = ink_figure(WIDTH, HEIGHT)
    colour, bins = colour_of(found.role), found.calibration.bins
    whole = sum(each.count for each in bins)
    axes.plot([0, 100], [0, 100], color=INK, lw=1, ls="--", alpha=0.6)
    at = [100 * each.confidence for each in bins]
    right = [100 * each.accuracy for each in bins]
    axes.vlines(at, at, right, color=colour, alpha=0.35, lw=2)
    sizes = [12 + 160 * each.count / whole for each in bins]
    axes.scatter(at, right, s=sizes, color=colour, alpha=0.9, lw=0, zorder=3)
    axes.set_xlim(0, 102)
    axes.set_ylim(-2, 102)
    _finish(axes, "confidence, %", "right, %", legend=False)
    return svg_of(figure, f"reliability {found.role}")


def charts_of(report: Report) -> dict[str, Any]:
    """All that the report has data for, by name: an SVG, or for reliability one a contender."""
    charts: dict[str, Any] = {"gains": None, "curve": None, "shift": None, "reliability": []}
    titles = {each.role: each.title for each in report.found}
    if report.gains:
        charts["gains"] = gains_svg(report.gains, titles)
    if report.curve:
        charts["curve"] = curve_svg(report.curve, titles)
    if any(each.shift for each in report.found):
        charts["shift"] = shift_svg(report.found)
    for each in report.found:
        if each.calibration is not None and each.role in (SOVEREIGN, "consensus"):
            charts["reliability"].append((each.title, reliability_svg(each)))
    return charts


def _finish(axes: Any, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2, color=INK)
    if legend:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

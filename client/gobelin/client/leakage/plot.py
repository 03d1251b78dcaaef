"""The leakage curve, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gobelin.client.leakage.audit import Found, LeakageReport
from gobelin.client.leakage.inversion import Inversion
from gobelin.client.leakage.membership import Separation
from gobelin.shared.evaluation.charts import COLOURS, new_figure
from gobelin.shared.evaluation.plots import BASELINE, save


def draw_curve(path: Path, report: LeakageReport) -> None:
    """Inversion and AUCs over local steps at one batch size, and over batch sizes at one step."""
    batch = report.found[0].setting.batch_size  # the curve over local steps comes first
    over_steps = [f for f in report.found if f.setting.batch_size == batch]
    over_batches = [f for f in report.found if f.setting.local_steps == 1]
    curves = [(f"local steps, batch {batch}", [(f.setting.local_steps, f) for f in over_steps])]
    if len(over_batches) > 1:
        along = [(f.setting.batch_size, f) for f in over_batches]
        curves.append(("batch size, one step", along))
    each = 2 if report.control else 1
    figure, panels = new_figure(3.6 * each * len(curves), 3.4, each * len(curves))
    for number, (label, points) in enumerate(curves):
        x, found = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        own = panels[each * number : each * (number + 1)]
        _draw_aucs(own[0], x, list(found))
        if report.control is not None:
            _draw_inversion(own[1], x, list(found), report.control)
        for axes in own:
            axes.set_xscale("log")
            axes.set_xticks(x, [str(at) for at in x])
            axes.minorticks_off()
            axes.set_xlabel(label)
            axes.legend(frameon=False, fontsize=7)
            axes.grid(axis="y", alpha=0.2)
    figure.suptitle("Leakage of one update: no DP, empirical", fontsize=10)
    save(path, figure)


def _draw_aucs(axes: Any, x: Sequence[int], found: list[Found]) -> None:
    for colour, (name, scores) in zip(COLOURS, _aucs(found).items(), strict=False):
        axes.plot(x, scores, "o-", ms=3, lw=1.4, label=name, color=colour)
    axes.axhline(0.5, ls="--", color=BASELINE, lw=1, label="chance")
    axes.set(ylabel="AUC of the best score", ylim=(0.3, 1.02))


def _draw_inversion(axes: Any, x: Sequence[int], found: list[Found], control: Inversion) -> None:
    over = [f.inversion.over_mean_db if f.inversion else float("nan") for f in found]
    axes.plot(x, over, "o-", ms=3, lw=1.4, color=COLOURS[0], label="inversion")
    axes.axhline(0, ls="--", color=BASELINE, lw=1, label="mean image")
    axes.axhline(control.over_mean_db, ls=":", color=COLOURS[1], lw=1.4, label="positive control")
    axes.set_ylabel("PSNR over the mean image, dB")


def _aucs(found: list[Found]) -> dict[str, list[float]]:
    """The best score's AUC along a curve."""
    return {
        "membership": [_best(each.membership) for each in found],
        "canaries": [_best(each.canaries) for each in found],
    }


def _best(scores: dict[str, Separation] | None) -> float:
    return max(score.auc for score in scores.values()) if scores else float("nan")

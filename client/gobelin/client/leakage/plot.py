"""The leakage curve, drawn."""

from __future__ import annotations

from pathlib import Path

from gobelin.client.leakage.audit import Found, LeakageReport
from gobelin.client.leakage.membership import Separation
from gobelin.shared.evaluation.charts import COLOURS, new_figure
from gobelin.shared.evaluation.plots import BASELINE, save


def draw_curve(path: Path, report: LeakageReport) -> None:
    """Inversion above, AUCs below; over local steps on the left, over batch sizes on the right."""
    largest = max(found.setting.batch_size for found in report.found)
    common = [f.setting.batch_size for f in report.found if f.setting.local_steps > 1]
    batch = common[0] if common else largest
    over_steps = [f for f in report.found if f.setting.batch_size == batch]
    over_batches = [f for f in report.found if f.setting.local_steps == 1]
    figure, panels = new_figure(9.6, 3.6, 2)
    curves = (over_steps, f"local steps, batch {batch}"), (over_batches, "batch size, one step")
    control = report.control
    for axes, (found, label) in zip(panels, curves, strict=True):
        steps = found is over_steps
        at = [f.setting.local_steps if steps else f.setting.batch_size for f in found]
        order = sorted(range(len(found)), key=at.__getitem__)
        x, along = [at[i] for i in order], [found[i] for i in order]
        for colour, (name, scores) in zip(COLOURS, _aucs(along).items(), strict=False):
            axes.plot(x, scores, "o-", ms=3, lw=1.4, label=name, color=colour)
        axes.axhline(0.5, ls="--", color=BASELINE, lw=1, label="chance, AUC")
        axes.set(xlabel=label, ylabel="AUC", ylim=(0.3, 1.02), xscale="log")
        axes.set_xticks(x, [f"{each:g}" for each in x])
        axes.minorticks_off()
        if control is not None:
            over = axes.twinx()
            values = [f.inversion.over_mean_db if f.inversion else float("nan") for f in along]
            over.plot(x, values, "s-", ms=4, lw=1.4, color=COLOURS[2], label="inversion, dB")
            line = f"control, {control.over_mean_db:.0f} dB"
            over.axhline(control.over_mean_db, ls=":", color=COLOURS[2], lw=1, label=line)
            over.set_ylabel("PSNR over the mean image, dB")
            over.legend(frameon=False, fontsize=7, loc="center right")
        axes.legend(frameon=False, fontsize=7, loc="upper left")
    figure.suptitle("Leakage of one update: no DP, empirical", fontsize=10)
    save(path, figure)


def _aucs(found: list[Found]) -> dict[str, list[float]]:
    """The best score's AUC along a curve."""
    return {
        "membership": [_best(each.membership) for each in found],
        "canaries": [_best(each.canaries) for each in found],
    }


def _best(scores: dict[str, Separation] | None) -> float:
    return max(score.auc for score in scores.values()) if scores else float("nan")

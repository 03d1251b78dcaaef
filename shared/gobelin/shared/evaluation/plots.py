"""Plots in files of their own: what `gobelin evaluate --plot` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.charts import COLOURS, new_figure
from gobelin.shared.files import file_atomic

BASELINE = "#888888"  # of dashed lines
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Line:
    """One line of a plot, with an error each way where there is one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] | None = None
    dashed: bool = False  # a baseline


def require_format(path: Path) -> None:
    """Raise ConfigError unless a plot can be written there: better before the work than after."""
    if path.suffix not in FORMATS:
        what = f"{path.name}: a plot is no {path.suffix or 'file without an ending'}"
        raise ConfigError(what, f"name it {', '.join(FORMATS)}")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ConfigError(f"{path} cannot be written", "name a file in a folder that exists")
    new_figure(1, 1)  # whether matplotlib is there


def bars(
    path: Path,
    title: str,
    unit: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    errors: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Groups of bars, one of each series in a group; None leaves its place empty. `errors` are
    distances below and above."""
    figure, (axes,) = new_figure(max(5.0, 1.1 * len(groups) + 2), 3.4)
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        at = [g + (i - (len(series) - 1) / 2) * width for g in range(len(groups))]
        there = [j for j, value in enumerate(values) if value is not None]
        found = errors.get(name) if errors else None
        both = None if found is None else [[found[j][side] for j in there] for side in (0, 1)]
        drawn = axes.bar(
            [at[j] for j in there],
            [values[j] for j in there],
            width,
            yerr=both,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            capsize=2,
        )
        axes.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(unit)
    _finish(figure, axes, title, path)


def lines(
    path: Path, title: str, x: str, y: str, drawn: Sequence[Line], *, logarithmic: bool = False
) -> None:
    """Lines over a common axis."""
    figure, (axes,) = new_figure(6.4, 3.8)
    for i, line in enumerate(drawn):
        colour = BASELINE if line.dashed else COLOURS[i % len(COLOURS)]
        style = {"linestyle": "--" if line.dashed else "-", "color": colour}
        axes.errorbar(line.x, line.y, line.errors, label=line.name, marker="o", ms=3, lw=1.4,
                      capsize=2, **style)  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
        ticks = sorted({at for line in drawn for at in line.x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _finish(figure, axes, title, path)


def spectra(path: Path, title: str, spectrum: Sequence[float], deviations: Sequence[float]) -> None:
    """How variance falls from direction to direction, and from dimension to dimension."""
    figure, panels = new_figure(8.4, 3.4, 2)
    what = ("share of the variance", "standard deviation")
    for axes, values, label in zip(panels, (spectrum, deviations), what, strict=True):
        axes.plot(range(1, len(values) + 1), values, color=COLOURS[0], lw=1.4)
        axes.set_ylabel(label)
        axes.grid(alpha=0.2)
    least = max(spectrum) * 1e-8
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter("{x:g}")  # powers would need math, which is not parsed
    panels[0].set_ylim(bottom=max(least, min((s for s in spectrum if s > least), default=least)))
    panels[0].set_xlabel("direction, widest first")
    panels[1].set_xlabel("dimension, widest first")
    panels[1].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=10)
    save(path, figure)


def save(path: Path, figure: Any) -> None:
    """Write a figure on white, whole or not at all; the same bytes each time."""
    import matplotlib as mpl

    kind = path.suffix.removeprefix(".")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with (
        mpl.rc_context({"svg.hashsalt": "gobelin"}),
        file_atomic(path) as tmp,
    ):
        figure.savefig(tmp, format=kind, dpi=150, metadata=metadata)


def _finish(figure: Any, axes: Any, title: str, path: Path) -> None:
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(title, fontsize=10)
    save(path, figure)

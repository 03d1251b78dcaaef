"""The report as files: evaluation.json, and one self-contained page for people."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gobelin.client.sovereign.report import SOVEREIGN, Report
from gobelin.client.sovereign.report_charts import charts_of
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.html import drawn
from gobelin.shared.files import json_bytes, write_atomic
from gobelin.shared.pages.templates import render

TEMPLATE = "gobelin.client.sovereign:report.html.j2"
JSON, HTML = "evaluation.json", "report.html"
HEADINGS = {
    "accuracy": "accuracy %",
    "balanced_accuracy": "balanced %",
    "accuracy_shifted": "shifted %",
    "auroc": "AUROC %",
    "found": "found at 5 % alarms %",
    "foresight": "foresight %",
}
MEANINGS = {
    "accuracy": "share of test samples told right",
    "balanced_accuracy": "the mean over classes, so that rare ones weigh as much",
    "accuracy_shifted": "mean accuracy on corrupted samples, which no contender has seen",
    "auroc": "chance that an anomalous sample scores above a normal one",
    "found": "share of anomalies found where 5 % of normal samples raise an alarm",
    "foresight": "error of what is foreseen, against saying that nothing moves: 100 is perfect, "
    "0 no better",
}
RECALLS = 40  # classes shown one by one, at most


def report_files(report: Report) -> dict[str, bytes]:
    """What a package keeps of it: the JSON, and the page where the `report` extra is installed."""
    files = {JSON: json_bytes(report.plain())}
    with suppress(ConfigError):  # the JSON has all of it: a node without matplotlib still builds
        files[HTML] = page_of(report).encode()
    return files


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write those files into a folder, each whole or not at all; returns them."""
    paths = []
    for name, content in report_files(report).items():
        write_atomic(folder / name, content)
        paths.append(folder / name)
    return paths


def page_of(report: Report) -> str:
    """The page; raises ConfigError when the `report` extra is not installed."""
    charts = charts_of(report)
    figures = list(dict.fromkeys(name for each in report.found for name in each.figures))
    reliability = charts.pop("reliability")
    return render(
        TEMPLATE,
        title=f"A sovereign model: {report.name}",
        report=report,
        sovereign=report.found[0],
        figures=figures,
        headings=HEADINGS,
        meanings=MEANINGS,
        tiles=_tiles(report),
        charts={name: drawn(svg or "") for name, svg in charts.items()},
        reliability=[(title, drawn(svg)) for title, svg in reliability],
        recalls=_recalls(report),
        percent=f"{100 * report.settings.confidence:g}",
        broken=[each for each in report.gate if not each.holds],
    )


def _tiles(report: Report) -> list[tuple[str, str, str, str]]:
    """What is looked at first: a caption, a figure, its unit, and its interval."""
    told = report.figures
    wanted = {
        report.headline: HEADINGS.get(report.headline, report.headline).removesuffix(" %"),
        "gain_over_consensus": "over the consensus",
        "gain_over_scratch": "over the same from scratch",
        "gain_over_solo": "over the solo model",
        "points_lost_general": "general capability lost",
        "ece": "calibration error",
    }
    tiles = []
    for name, caption in wanted.items():
        if name in told:
            points = name.startswith(("gain", "points"))
            value, unit = told[name], "points" if points else "%"
            sign = "+" if name.startswith("gain") else ""
            spread = f"{value.low:{sign}.1f} to {value.high:{sign}.1f}"
            tiles.append((caption, f"{value.value:{sign}.1f}", unit, spread))
    return tiles


def _recalls(report: Report) -> list[tuple[str, dict[str, float | None]]]:
    """Each class's name, and the percent of it that the contenders tell right, hardest first."""
    recalls: Mapping[str, list[float | None]] = {
        each.role: each.facts["recall"] for each in report.found if "recall" in each.facts
    }
    mine = recalls.get(SOVEREIGN)
    if mine is None or len(mine) > RECALLS:
        return []
    names = report.class_names or tuple(str(k) for k in range(len(mine)))
    rows = [
        (name, {role: recall[k] for role, recall in recalls.items()})
        for k, name in enumerate(names)
        if mine[k] is not None
    ]
    return sorted(rows, key=lambda row: row[1][SOVEREIGN] or 0.0)

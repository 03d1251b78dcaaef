"""The HTML report: one self-contained file, readable on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gobelin.shared.evaluation.charts import Cloud, Curve, cloud_png, curves_svg
from gobelin.shared.evaluation.results import MEMBER_HEADINGS, Results, columns_of, member_cells
from gobelin.shared.files import write_atomic
from gobelin.shared.pages.templates import render, safe

TEMPLATE = "gobelin.shared.evaluation:report.html.j2"


def write_report(
    path: Path,
    results: Results,
    curves: Sequence[Curve] = (),
    embeddings: Sequence[Cloud] = (),
    *,
    title: str = "What federating was worth",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the report: tables, a training chart a metric, embeddings in their principal plane.

    `facts` are shown as they are (consensus, digests, seeds, seconds). Raises ConfigError when
    the `report` extra is not installed.
    """
    metrics = dict.fromkeys(curve.metric for curve in curves)
    page = render(
        TEMPLATE,
        title=title,
        results=results,
        columns=columns_of(results.rows),
        member_headings=MEMBER_HEADINGS,
        member_cells=member_cells,
        charts=[
            (metric, drawn(curves_svg(metric, [c for c in curves if c.metric == metric])))
            for metric in metrics
        ],
        clouds=[(cloud.title, cloud_png(cloud)) for cloud in embeddings],
        facts=dict(facts or {}),
    )
    write_atomic(path, page.encode())


def drawn(svg: str) -> Any:
    """A chart as a page takes it as it is: matplotlib has escaped the names in its SVG."""
    return safe(svg)

"""The HTML report: one self-contained file, readable on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.charts import Cloud, Curve, cloud_png, curves_svg
from gobelin.shared.evaluation.results import MEMBER_HEADINGS, Results, columns_of, member_cells
from gobelin.shared.files import write_atomic

TEMPLATE = "report.html.j2"


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
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise ConfigError(
            "the HTML report needs jinja2, which is not installed", "pip install 'gobelin[report]'"
        ) from None
    metrics = dict.fromkeys(curve.metric for curve in curves)
    source = resources.files("gobelin.shared.evaluation").joinpath(TEMPLATE).read_text("utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    page = template.render(
        title=title,
        results=results,
        columns=columns_of(results.rows),
        member_headings=MEMBER_HEADINGS,
        member_cells=member_cells,
        # Markup is safe here: matplotlib has escaped the names in its SVG.
        charts=[
            (metric, Markup(curves_svg(metric, [c for c in curves if c.metric == metric])))  # noqa: S704
            for metric in metrics
        ],
        clouds=[(cloud.title, cloud_png(cloud)) for cloud in embeddings],
        facts=dict(facts or {}),
    )
    write_atomic(path, page.encode())

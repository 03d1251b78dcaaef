"""Charts that need no network: inline SVG that takes the page's colours, PNG for point clouds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError

INK = "#010203"  # replaced by the page's text colour
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee",
    "#aa3377", "#ee8866", "#44bb99", "#999933", "#8888ff",
)  # fmt: skip  # told apart by most colour-blind readers, on light and on dark
CLOUD_POINTS = 3000


@dataclass(frozen=True)
class Curve:
    """One line of a training chart."""

    name: str  # a member, or the consensus
    metric: str  # the chart it belongs to: loss, effective rank, ...
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Cloud:
    """Features of labelled images, to be seen in the plane of their two main directions."""

    title: str
    features: Tensor  # (N, D)
    labels: Tensor  # (N,)
    class_names: Sequence[str]


def curves_svg(metric: str, curves: Sequence[Curve]) -> str:
    """A line chart as an SVG element."""
    figure, axes = ink_figure(6.4, 3.2)
    for i, curve in enumerate(curves):
        values = np.asarray(curve.values, dtype=float)
        colour = COLOURS[i % len(COLOURS)]
        marker = "o" if len(values) < 2 else None
        axes.plot(curve.steps, values, label=curve.name, color=colour, lw=1.6, marker=marker)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.2, color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return svg_of(figure, metric)


def cloud_png(cloud: Cloud) -> str:
    """A point cloud coloured by class, as a data URI."""
    figure, axes = ink_figure(5.2, 4.4)
    chosen = torch.linspace(0, len(cloud.labels) - 1, min(CLOUD_POINTS, len(cloud.labels))).long()
    plane = principal_plane(cloud.features)[chosen].cpu().numpy()
    labels = cloud.labels[chosen].cpu().numpy()
    for label, name in enumerate(cloud.class_names):
        points = plane[labels == label]
        colour = COLOURS[label % len(COLOURS)]
        axes.scatter(points[:, 0], points[:, 1], s=5, alpha=0.6, color=colour, lw=0, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    side = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    axes.legend(frameon=False, labelcolor="#888888", fontsize=8, markerscale=3, **side)
    for spine in axes.spines.values():
        spine.set_color("#888888")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, transparent=True, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def principal_plane(features: Tensor) -> Tensor:
    """The coordinates (N, 2) of features (N, D) along their two main directions."""
    centred = features.double() - features.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # (D, D), ascending
    axes = vectors[:, -2:].flip(1)
    # An eigenvector's sign is arbitrary: the largest part is made positive.
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    plane: Tensor = centred @ (axes * signs)
    return plane


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """An empty figure in inches and its axes side by side, made without pyplot: nothing global, no
    display. Raises ConfigError without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "charts need matplotlib, which is not installed", "pip install 'gobelin[report]'"
        ) from None
    mpl.rcParams["text.parse_math"] = False  # a member may well have a $ in its name
    figure = Figure(figsize=(width, height), layout="constrained")
    row = figure.subplots(1, panels, squeeze=False)[0]
    for axes in row:
        axes.tick_params(labelsize=8)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
    return figure, row


def ink_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure in the ink of a page."""
    figure, (axes,) = new_figure(width, height)
    axes.set_facecolor("none")
    axes.tick_params(colors=INK)
    for side in (axes.xaxis.label, axes.yaxis.label):
        side.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    return figure, axes


def svg_of(figure: Any, salt: str) -> str:
    """The figure as an SVG element: the same bytes each time, ids of its own, the page's ink."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")

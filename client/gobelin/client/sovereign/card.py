"""The model card of a sovereign model: what a person should know of it, from its lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gobelin.client.sovereign.package import SovereignModel

FILE = "README.md"


def card_of(model: SovereignModel) -> str:
    """Markdown."""
    lineage, release = model.lineage, model.lineage.release
    whose = f"round {release.round} of {release.federation}" if release.federation else "a model"
    checked = (
        f"verified against the key `{release.verified_by}`"
        if release.verified
        else "**taken unverified: nobody has checked who made it**"
    )
    lines = [
        f"# A sovereign model of {lineage.region}",
        "",
        f"A {model.task} model of {model.vector.schema.size:,} parameters for {model.modality} "
        f"data, built by `{lineage.method}` in {lineage.steps} steps on {whose}. "
        f"Licence: {lineage.licence}.",
        "",
        "## Using it",
        "",
        "```python",
        "from gobelin.client.sovereign import load",
        'model = load("this folder")',
        "features = model.encode(samples)",
        *(["chances = model.predict(samples)"] if model.head is not None else []),
        "```",
        "",
        *_classes(model),
        "## Where it comes from",
        "",
        f"* Release: `{release.vector_digest}`, {checked}.",
        *(
            f"* {said.name}: {said.samples:,} samples, digest `{said.digest}`."
            for said in lineage.data
        ),
        *(f"* Parent ({parent.kind}): `{parent.digest}`." for parent in lineage.parents),
        "* Nothing of it has gone back to the federation, and none of the data are in it as such; "
        "what a model tells of the data it was trained on is a matter of measurement.",
        "",
        "## How well it does",
        "",
        *_figures(model),
        "",
    ]
    return "\n".join(lines)


def _classes(model: SovereignModel) -> list[str]:
    if model.head is None:
        return []
    return [f"Classes: {', '.join(model.class_names)}.", ""]


def _figures(model: SovereignModel) -> list[str]:
    """The lineage's own summary, a line a figure."""
    found = model.lineage.evaluation
    if "accuracy" in found:
        on = f"{found['samples']:,} {found['on']} samples"
        line = f"* Told right: {found['accuracy']:.1f} % of {on}, {found['balanced']:.1f} % as a "
        lines = [line + "mean over classes."]
        if not found.get("tune", {}).get("taken", True):
            lines += ["* Fine-tuning gained nothing clear on held-out labels and was not taken."]
        return [*lines, *_compared(found)]
    stage = found.get("pretrain")
    if stage:
        before, after = stage["loss_before"], stage["loss"]
        return [f"* Loss on held-out samples: {before:.4g} before, {after:.4g} after."]
    return _compared(found) or ["Nobody has measured it."]


def _compared(found: Mapping[str, Any]) -> list[str]:
    """The figures of the report, with their intervals."""
    report = found.get("report")
    if not report:
        return []
    within = f"{100 * report['confidence']:g} %"
    lines = []
    for name, figure in report["figures"].items():
        value, low, high = (f"{figure[key]:.4g}" for key in ("value", "low", "high"))
        lines.append(f"* {name.replace('_', ' ')}: {value} ({within}: {low} to {high}).")
    return [*lines, "* All of it, with charts: `report.html`, `evaluation.json`."]

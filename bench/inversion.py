"""Leakage of updates over seeds: inversion, membership and canaries, as `gobelin audit leakage`.

Writes `inversion`, the default setting beside the positive control, and `leakage_curve`. On
Fashion-MNIST; each seed draws data, weights and canaries of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.measure import spread, write_result
from gobelin.client.leakage import Audit, audit_leakage
from gobelin.client.leakage.audit import settings_of
from gobelin.client.leakage.inversion import CONTROL_DB
from gobelin.shared.data.fashion_mnist import TRAIN, fetch_fashion_mnist
from gobelin.shared.recipe import load_recipe

RECIPE = "tiny"
DEFAULT_STEPS = 500  # of `gobelin aggregator init`
SCORES = ("loss", "drop", "direction")
GOAL = "default settings: mean image + 1 dB at most; positive control: 20 dB at least"


def main() -> None:
    """Audit over seeds and write both results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the four IDX files; else they are fetched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE)
    batch = recipe.inner.batch_size
    settings = settings_of([*options.steps, DEFAULT_STEPS], options.batches, batch)
    source = recipe.modality().open(fetch_fashion_mnist(Path(".cache"), options.data) / TRAIN)
    audits = []
    for seed in options.seeds:
        asked = Audit(
            tuple(settings), samples=options.samples, iterations=options.iterations, seed=seed
        )
        found = audit_leakage(
            recipe, None, source, asked, on_setting=partial(print, f"seed {seed}:")
        )
        audits.append(found.facts())
    common = {
        "recipe": recipe.name,
        "seeds": options.seeds,
        "samples": options.samples,
        "iterations": options.iterations,
        "images": audits[0]["images"],
        "codec": audits[0]["codec"],
        "control_db": spread([audit["control"]["psnr_db"] for audit in audits]),
    }
    curve = [_point(index, audits) for index in range(len(settings))]
    told = {**common, "canaries": audits[0]["canaries"], "settings": curve}
    print(write_result("leakage_curve", told))
    print(write_result("inversion", {**common, **_default(curve, batch, audits)}))


def _default(curve: Sequence[dict[str, Any]], batch: int, audits: Sequence[Any]) -> dict[str, Any]:
    """The two figures: the worst seed of each, so that no mean hides one."""
    wanted = DEFAULT_STEPS, batch
    (at,) = (p for p in curve if (p["local_steps"], p["batch_size"]) == wanted)
    over, control = at["over_mean_db"], [audit["control"]["psnr_db"] for audit in audits]
    return {
        "local_steps": DEFAULT_STEPS,
        "batch_size": batch,
        "psnr_over_mean_db": over["max"],
        "positive_control_db": min(control),
        "over_mean_db": over,
        "best_over_mean_db": at["best_over_mean_db"],
        "chance_over_mean_db": at["chance_over_mean_db"],
        "goal": GOAL,
        "reached": over["max"] <= 1.0 and min(control) >= CONTROL_DB,
    }


def _point(index: int, audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One setting over the seeds; None for what was not measured."""
    found = [audit["settings"][index] for audit in audits]
    inverted = [each["inversion"] for each in found]
    point = {key: found[0][key] for key in ("local_steps", "batch_size", "seen")}
    for key in inverted[0]:
        values = [each[key] for each in inverted]
        point[key] = None if None in values else spread(values)
    for kind in ("membership", "canaries"):
        for score in SCORES:
            for figure in ("auc", "tpr"):
                there = [each[kind] for each in found]
                values = [each[score][figure] for each in there if each is not None]
                point[f"{kind}.{score}.{figure}"] = spread(values) if values else None
    return point


if __name__ == "__main__":
    main()

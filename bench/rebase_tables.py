"""Tables of what stays of a build when the release beneath it changes, and of merged builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table

PAIRS = {"early": "rounds 8 → 12", "late": "rounds 12 → 16", "refounded": "refounded"}
MASKS = {
    "none": "whole delta",
    "movement": "where it agrees with the release's own movement",
    "gradient": "where it agrees with the regional gradient",
}


def transplant_table(values: Mapping[str, Any]) -> str:
    """Heads of one release on the next."""
    columns = ("before", "raw", "framed", "few", "own", "fresh")
    rows = [
        [
            title,
            *(figure(values[f"{pair}.{column}"]) for column in columns),
            figure(values[f"{pair}.lost.raw"], 1, True),
            figure(values[f"{pair}.lost.framed"], 1, True),
            figure(values[f"{pair}.rotation"]),
        ]
        for pair, title in PAIRS.items()
        if f"{pair}.before" in values
    ]
    heading = (
        "## A head of one release on the next\n\n"
        f"`make bench-head_transplant`: recipe tiny, linear heads on tokens, {values['labels']:,} "
        f"labels of each of three regions, seeds {values['seeds']}, {values['machine']}. Percent "
        "of a region's test images; the head's weights are the same in all columns but the last. "
        "Points lost over both pairs that follow each other: "
        f"{figure(values['points_lost'], 2, True)} pinned, through the frame published with the "
        f"release, {figure(values['raw.points_lost'], 1, True)} not pinned. "
        f"Goal: {values['goal']}.\n"
    )
    heads = [
        "releases", "on its own", "next, as it is", "next, published frame",
        "frame of 100 images", "frame of own images", "fitted anew",
        "points lost, as it is", "points lost, pinned", "turned by °",
    ]  # fmt: skip
    return "\n".join([heading, table(heads, rows)])


def rebase_table(values: Mapping[str, Any]) -> str:
    """Builds carried over."""
    stages = {
        "before": "old build, on its old release",
        "unaligned": "delta copied, head as it was",
        "rebased": "**rebased**: delta copied, head aligned",
        "recovered": "and recovered in a twentieth of the steps",
        "fresh": "built anew",
    }
    rows = []
    for build in values["builds"]:
        for name, title in stages.items():
            keys = [f"{build}.{pair}" for pair in ("early", "late")]
            if f"{keys[0]}.{name}" not in values:
                continue
            cells = []
            for key in keys:
                cells.append(figure(values[f"{key}.{name}"]))
                cells.append(figure(values.get(f"{key}.seconds.{name}"), 2))
            rows.append([f"{title} ({build})", *cells])
        for mask, title in MASKS.items():
            if build == "full" and mask != "none":
                accuracies = [
                    values[f"{build}.{p}.mask.{mask}.accuracy"] for p in ("early", "late")
                ]
                cells = [cell for value in accuracies for cell in (figure(value), "–")]
                rows.append([f"rebased, delta {title} ({build})", *cells])
    heading = (
        "## A build goes over to the next release\n\n"
        f"`make bench-rebase`: recipe tiny, {values['labels']:,} labels of one region, seeds "
        f"{values['seeds']}, {values['machine']}. Percent of the region's test images, and seconds "
        "of one core from the start. `full` moves the whole model, `linear` a head alone. By "
        f"default (`full`, both pairs): {figure(values['share_of_fresh'], 3)} of the accuracy of "
        f"building anew in {figure(values['share_of_time'], 3)} of its time, "
        f"{figure(values['points_behind_fresh'], 2)} points behind. Goal: {values['goal']}.\n"
    )
    heads = ["model", "rounds 8 → 12", "seconds", "rounds 12 → 16", "seconds"]
    return "\n".join([heading, table(heads, rows)])


def merging_table(values: Mapping[str, Any]) -> str:
    """Merged builds beside what they were made of."""
    models = [key.removesuffix(".both") for key in values if key.endswith(".both")]
    regions = ("turned", "negative")
    rows = [
        [
            model,
            *(figure(values[f"{model}.{region}"]) for region in regions),
            figure(values[f"{model}.both"]),
            figure(values[f"{model}.worst"]),
            figure(values.get(f"{model}.over_best_alone"), 1, True),
        ]
        for model in models
    ]
    heading = (
        "## Builds of two regions merged\n\n"
        f"`make bench-merging`: recipe tiny, {values['labels']:,} labels of each region, whose "
        f"scanners differ, seeds {values['seeds']}, {values['machine']}. Percent of each region's "
        "test images; the last column is over the better of the two builds, in both regions' mean. "
        f"Goal: {values['goal']}.\n"
    )
    heads = ["model", *regions, "both", "worst", "over the better build"]
    return "\n".join([heading, table(heads, rows)])

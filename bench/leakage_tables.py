"""The tables of leakage: inversion beside its control, and the curve of all attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table


def inversion_table(values: Mapping[str, Any]) -> str:
    """The default setting; the control stands in the same row."""
    heading = (
        "## Inversion of an update\n\n"
        f"`make bench-inversion`: recipe {values['recipe']}, {values['samples']} samples, "
        f"{values['codec']}, {values['iterations']} iterations for {values['images']} images, "
        f"seeds {values['seeds']}, {values['machine']}. No DP: empirical leakage only. dB of PSNR "
        "over the mean image, mean over images; chance: matched to images the node has not "
        f"trained on. Worst seed {values['psnr_over_mean_db']:+.2f} dB, weakest positive control "
        f"{values['positive_control_db']:.1f} dB PSNR. Goal: {values['goal']}; "
        f"{'reached' if values['reached'] else 'not reached'}.\n"
    )
    row = [
        f"{values['local_steps']} steps, batch {values['batch_size']}",
        *(figure(values[key], 2, True) for key in ("over_mean_db", "best_over_mean_db")),
        figure(values["chance_over_mean_db"], 2, True),
        figure(values["control_db"]),
    ]
    heads = ["update", "over the mean", "best image", "chance", "control, PSNR"]
    return "\n".join([heading, table(heads, [row])])


def leakage_table(values: Mapping[str, Any]) -> str:
    """A row a setting: inversion, then the best score's AUC and TPR of members and canaries."""
    heading = (
        "## Leakage over local steps and batch size\n\n"
        f"`make bench-inversion`, as above; {values['canaries']} canaries. Positive control of the "
        f"inversion {figure(values['control_db'])} dB PSNR; membership and canaries have none, so "
        "chance there (AUC 0.50, TPR 0.01) is weak evidence. Mismatch: what is left of the "
        "attacker's own loss, and that of the true images, where the whole batch is solved for; "
        "the lower of the two says whether the search or the update is the limit.\n"
    )
    rows = [
        [
            f"{at['local_steps']} × {at['batch_size']}",
            str(at["seen"]),
            figure(at["over_mean_db"], 2, True),
            f"{figure(at['mismatch'], 2)} / {figure(at['mismatch_of_truth'], 2)}",
            *(
                _best(at, kind, key)
                for kind in ("membership", "canaries")
                for key in ("auc", "tpr")
            ),
        ]
        for at in values["settings"]
    ]
    heads = ["steps × batch", "samples seen", "inversion, dB over the mean", "mismatch / of truth",
             "member AUC", "member TPR", "canary AUC", "canary TPR"]  # fmt: skip
    return "\n".join([heading, table(heads, rows)])


def privacy_table(values: Mapping[str, Any]) -> str:
    """ε against probes; without noise there is none."""
    heading = (
        f"## What differential privacy costs\n\n`make bench-dp`: recipe {values['recipe']}, one "
        f"node of {values['samples']:,} images of Fashion-MNIST, {values['steps']} steps of "
        f"{values['batch']} drawn on average (Poisson), clip norm {values['clip_norm']:g}, probes "
        f"fitted on {values['labels']:,} labels, seeds {values['seeds']}. ε at δ = "
        f"{values['delta']:.1e}, of the whole training, for one image added or removed (PLD). "
        "Nothing is tuned.\n"
    )
    probes = ("tokens", "pooled", "knn", "few_shot")
    rows = [
        [
            row["model"] if not row["noise_multiplier"] else f"{row['model']}, private",
            f"{row['noise_multiplier']:g}" if row["noise_multiplier"] else "–",
            "–" if row["epsilon"] is None else f"{row['epsilon']:.2f}",
            *(figure(row[probe]) if probe in row else "–" for probe in probes),
            figure(row["effective_rank"]) if "effective_rank" in row else "–",
        ]
        for row in values["rows"]
    ]
    heads = ["model", "noise σ", "ε", "tokens, %", "pooled, %", "kNN, %", "ten labels, %", "rank"]
    return "\n".join([heading, table(heads, rows)])


def _best(at: Mapping[str, Any], kind: str, key: str) -> str:
    """Of the three scores the one with the highest mean."""
    there = [at[f"{kind}.{score}.{key}"] for score in ("loss", "drop", "direction")]
    found = [value for value in there if value is not None]
    return figure(max(found, key=lambda value: value["mean"]), 2) if found else "–"

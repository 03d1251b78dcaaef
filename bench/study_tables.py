"""Tables of the studies: when federating pays, and what helps where members' data differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.markdown import PROBES, figure, table
from bench.premium_images import SCENARIOS
from bench.remedies import BASES
from bench.split_world import BEST
from bench.when_it_pays import AXES, AXIS_TITLES, chart
from gobelin.shared.files import write_atomic

CHART = Path(__file__).parent.parent / "docs" / "when_it_pays.svg"


def cross_node_table(values: Mapping[str, Any]) -> str:
    """Cross-node SIGReg on images, beside the same rounds without it."""
    figures = {**PROBES, "cosine": "cosine of deltas"}
    rows = [
        [
            f"{scenario}, {title}",
            *(
                figure(values[f"{scenario}.{model}.{name}"], 2 if name == "cosine" else 1)
                for name in figures
            ),
        ]
        for scenario in SCENARIOS
        if f"{scenario}.plain.tokens" in values
        for model, title in (("plain", "plain"), ("cross_node", "cross-node SIGReg"))
    ]
    heading = (
        "## Cross-node SIGReg on images\n\n"
        f"`make bench-cross_node_images`: {values['rounds']} rounds of {values['local_steps']} "
        f"steps, seeds {values['seeds']}, {values['machine']}; members as above.\n"
    )
    return "\n".join([heading, table(["consensus", *figures.values()], rows)])


def split_table(values: Mapping[str, Any]) -> str:
    """A world of which every member knows a part."""
    forms = {
        "left": "solo, left room",
        "right": "solo, right room",
        "door": "solo, around the door",
        "pooled": "all data pooled",
        "pooled_faster": "all data pooled, learning rate × 1.5",
        "pooled_longer": "all data pooled, three times the steps (as many samples)",
        "fedavg": "plain FedAvg, H = 10",
        "sketch": "cross-node SIGReg, sketches, H = 10",
        "moments": "cross-node SIGReg, moments, H = 10",
        "momentum": "the same with outer Nesterov, lr 1, μ = 0.5",
        "momentum_often": "the same, H = 5",
    }
    rows = [
        [
            title,
            figure(values[name], 3),
            figure(values.get("over_pooled" if name == BEST else f"{name}.over_pooled"), 2),
        ]
        for name, title in forms.items()
        if name in values
    ]
    ratios = ("over_pooled", "over_pooled_faster", "over_pooled_longer", "over_best_solo")
    ours = [figure(values[name], 2) for name in ratios]
    return "\n".join(
        [
            "## A world split over three members\n",
            f"`make bench-split_world`: TwoRoom, {values['steps']} steps a member, seeds "
            f"{values['seeds']}, {values['machine']}, in one process. Error of the position "
            "decoded after ten imagined steps, anywhere; standing still scores "
            f"{values['standing_still']:.3f}.\n",
            table(["model", "error", "over pooled"], rows),
            f"The last row over pooled {ours[0]} (goal at most 1.25), over pooled with its "
            f"learning rate × 1.5 {ours[1]}, over pooled with as many samples {ours[2]}, over the "
            f"best solo {ours[3]} (goal below 1).\n",
        ]
    )


def noniid_table(values: Mapping[str, Any]) -> str:
    """Eight members with other kinds of clothes."""
    models = {
        "solo_mean": "solo, mean over members",
        "solo_best": "solo, best on each probe",
        "pooled": "all data pooled",
        "fedavg": "consensus, plain FedAvg",
        "moments": "consensus, cross-node SIGReg",
        "momentum": "the same with outer Nesterov, lr 1, μ = 0.5",
    }
    probes = [[t, *(figure(values[f"{m}.{p}"]) for p in PROBES)] for m, t in models.items()]
    figures = {
        "premium": "premium on a member's mix of classes, mean over members",
        "least_premium": "the same of the member that gains least (goal ≥ 0)",
        "gap_to_pooled": "pooled over consensus (goal ≤ 2)",
        "over_best_solo": "consensus over the best solo, all test images",
    }
    worth = [
        [
            title,
            *(figure(values[f"{prefix}{key}"], 2, True) for prefix in ("fedavg.", "moments.", "")),
        ]
        for key, title in figures.items()
    ]
    forms = ("plain FedAvg", "cross-node SIGReg", "with outer Nesterov")
    heading = (
        f"## {values['members']} members, Dirichlet({values['alpha']})\n\n"
        f"`make bench-noniid`: recipe {values['recipe']}, {values['rounds']} rounds of "
        f"{values['local_steps']} steps, equal steps for all models, seeds {values['seeds']}, "
        f"{values['machine']}. Percent on the test images, and points by the probe on tokens.\n"
    )
    parts = [heading, table(["model", *PROBES.values()], probes)]
    return "\n".join([*parts, table(["points", *forms], worth)])


def remedies_table(values: Mapping[str, Any]) -> str:
    """What else helps in the split world."""
    titles = {
        "none": "–",
        "inner_averaged": "inner optimizer's state averaged",
        "inner_reset": "inner optimizer's state reset",
        "fedprox_0.01": "FedProx, μ = 0.01",
        "fedprox_0.1": "FedProx, μ = 0.1",
        "scaffold": "SCAFFOLD's drift correction",
        "layerwise": "layer-wise weights by agreement",
        "outer_1.5": "outer SGD, lr 1.5",
        "nesterov_1_0.5": "outer Nesterov, lr 1, μ = 0.5",
        "nesterov_0.7_0.9": "outer Nesterov, lr 0.7, μ = 0.9 (DiLoCo)",
        "encoder_twice": "encoder averaged twice a round",
        "half_rounds": "H halved",
        "late": "a member joins at half time",
        "late_anchor": "the same, latents of public pictures anchored",
    }
    rows = [
        [title, *(figure(values.get(f"{base}.{name}.over_pooled"), 2) for base in BASES)]
        for name, title in titles.items()
    ]
    heading = (
        f"## Remedies in the split world\n\n`make bench-remedies`: as above, {values['steps']} "
        f"steps, H = 10, seeds {values['seeds']}, {values['machine']}. Error of the consensus "
        f"over that of pooled ({figure(values['pooled'], 3)}); every remedy alone.\n"
    )
    return "\n".join([heading, table(["remedy", "on plain FedAvg", "on cross-node SIGReg"], rows)])


def bytes_table(values: Mapping[str, Any]) -> str:
    """Bytes until the consensus is nearly as good as pooled."""
    arms = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in values if ".H" in key))
    columns = ("megabytes_up", "ratio", "megabytes_both_ways", "ratio_both_ways", "final")
    rows = [
        [
            arm.replace(".H", ", H = "),
            f"{values[f'{arm}.reached']} of {len(values['seeds'])}",
            *(figure(values.get(f"{arm}.{column}")) for column in columns),
        ]
        for arm in arms
    ]
    heading = (
        f"## Bytes to the pooled model's accuracy − {values['slack']:g} points\n\n"
        f"`make bench-bytes_to_accuracy`: 10-shot probe, pooled {figure(values['pooled'])}; three "
        f"members with {values['images']} images, {values['steps']} steps, seeds "
        f"{values['seeds']}, {values['machine']}. The baseline is fp32 after every epoch "
        f"(H = {values['epoch']}). Megabytes of all members together; both ways counts the base "
        f"in fp32. Goal: {values['goal']}.\n"
    )
    heads = ["codec", "reached", "MB sent", "times fewer", "MB both ways", "times fewer", "at end"]
    return "\n".join([heading, table(heads, rows)])


def grid_table(values: Mapping[str, Any]) -> str:
    """The premium along each axis, and the chart beside the page."""
    write_atomic(CHART, chart(values).encode())
    figures = {
        "premium": "premium",
        "least_premium": "least",
        "premium_knn": "premium, kNN",
        "gap_to_pooled": "pooled over consensus",
        "gap_to_pooled_knn": "the same, kNN",
    }
    rows = [
        [
            f"{axis}, {value:g}",
            *(figure(values[f"{key}.{value:g}.{name}"], 2, True) for name in figures),
        ]
        for key, axis in AXIS_TITLES.items()
        for value in AXES[key]
    ]
    centre = ", ".join(f"{AXIS_TITLES[key]} {value:g}" for key, value in values["centre"].items())
    heading = (
        f"## When does federating pay?\n\n`make bench-when_it_pays`: {values['members']} members, "
        f"one thing changed at a time from {centre}; seeds {values['seeds']}, "
        f"{values['machine']}. Points the consensus (cross-node SIGReg) gains over a member alone: "
        "token probe on the member's mix of classes, mean over members and of the member that "
        "gains least; nearest neighbours on all test images.\n\n"
        f"![premium by data, skew, local steps and compute]({CHART.name})\n"
    )
    return "\n".join([heading, table(["changed", *figures.values()], rows)])


def image_probe_table(values: Mapping[str, Any]) -> str:
    """Objectives on images, at equal images seen."""
    titles = {
        "pixels": "raw pixels",
        "random": "random weights",
        "supervised": "the same net, trained on the labels",
        "lejepa": "**LeJEPA**",
        "vicreg": "VICReg",
        "info_nce": "InfoNCE",
        "masked": "masked prediction, SIGReg, no teacher",
        "masked_teacher": "masked prediction, EMA teacher (I-JEPA)",
        "byol": "two views, EMA teacher (BYOL)",
        "lead": "LeJEPA over the best other without labels, points",
    }
    figures = {**PROBES, "effective_rank": "effective rank", "seconds": "training, processor s"}
    rows = [
        [
            title,
            *(
                figure(
                    values.get(f"{model}.{name}"), 0 if name == "seconds" else 1, model == "lead"
                )
                for name in figures
            ),
        ]
        for model, title in titles.items()
        if f"{model}.tokens" in values
    ]
    heading = (
        "## Objectives on images\n\n"
        f"`make bench-image_probe`: recipe {values['recipe']} on Fashion-MNIST, "
        f"{values['images_seen']} images seen, probes on {values['labels']} labels, seeds "
        f"{values['seeds']} (models beside LeJEPA: {values['seeds_of_others']}), "
        f"{values['machine']}. "
        f"Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["model", *figures.values()], rows)])


def image_recipe_table(values: Mapping[str, Any]) -> str:
    """What was tried for the recipe of images, on held-out training images."""
    figures = {**PROBES, "effective_rank": "effective rank"}
    rows = [
        [
            name,
            f"{values[f'{name}.steps']:,}",
            *(f"{values[f'{name}.{key}']['mean']:.1f}" for key in figures),
            f"{values[f'{name}.seconds']['mean']:.0f}",
        ]
        for name in values["variants"]
    ]
    heading = (
        "## How the recipe tiny_long was chosen\n\n"
        f"`make bench-image_recipe`: what is changed of recipe tiny, seeds {values['seeds']}, "
        f"{values['machine']}. Percent of held-out training images; no test image was looked at. "
        "Probes on 10,000 labels, 20 draws of ten labels a class.\n"
    )
    return "\n".join([heading, table(["changed", "steps", *figures.values(), "processor s"], rows)])


def sigreg_table(values: Mapping[str, Any]) -> str:
    """SIGReg's forward and backward pass beside two packages'."""
    rows = []
    for row in values["rows"]:
        size, best = row["size"], row["ms_best"]
        others = [f"{best[name]:.1f}" for name in values["baselines"]]
        sizes = f"N {size['N']}, D {size['D']}, M {size['M']}, {row['threads']} thread(s)"
        rows.append([sizes, f"{best['gobelin']:.1f}", *others, f"{row['speedup']:.1f}"])
    heading = (
        "## SIGReg, forward and backward\n\n"
        f"`make bench-sigreg`: device {values['device']}, best of {values['repetitions']}, "
        f"{values['machine']}, against the faster of the others. Greatest relative "
        f"difference of value and gradient {values['max_rel_error']:.1e}. Goal: "
        f"{values['goal']}.\n"
    )
    columns = ["size", "ours, ms", *(f"{name}, ms" for name in values["baselines"]), "times faster"]
    return "\n".join([heading, table(columns, rows)])

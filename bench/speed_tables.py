"""Tables of speed and memory: a training step, the exchange, the aggregation, the aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table

SIDES = ("stable_pretraining", "gobelin")
STOCK = {"memory": "Flower, SuperLink in memory", "sqlite": "Flower, SuperLink on SQLite"}


def exchange_table(values: Mapping[str, Any]) -> str:
    """Seconds of a round's exchange, beside those of stock Flower."""
    rows = []
    for size in values["sizes"]:
        titles = {codec: f"Gobelin, {codec}" for codec in values["codecs"]}
        titles |= {f"stock_{kind}": STOCK[kind] for kind in values["stock"]}
        for key, title in titles.items():
            at = f"{size}M.{key}"
            speedup = values.get(f"{at}.speedup")
            rows.append(
                [
                    f"{size}M, {title}",
                    figure(values.get(f"{at}.seconds"), 2),
                    _number(values.get(f"{at}.median_s"), 2),
                    _number(values.get(f"{at}.cpu_s_a_round"), 1),
                    _number(speedup, 1),
                ]
            )
    heading = (
        f"## Exchange of a round, {values['nodes']} nodes\n\n"
        f"`make bench-exchange`: {values['rounds']} rounds after one that is not timed, "
        f"{values['threads']} threads a process, {values['machine']}. Seconds from one sealed "
        "round to the next without the training, all processes on loopback behind TLS; a codec is "
        "named up/down. Speedups are of medians, against the faster of Flower's two. "
        f"Goal: {values['goal']}.\n"
    )
    heads = ["variant", "seconds", "median", "processor seconds a round", "times faster"]
    return "\n".join([heading, table(heads, rows)])


def aggregation_table(values: Mapping[str, Any]) -> str:
    """Seconds of one aggregation, beside Flower's two."""
    ours = "Gobelin, fixed-point mean"
    titles = {
        "gobelin": ours,
        "flower": "Flower, `aggregate` over numpy layers",
        "flower_arrayrecords": "Flower, `aggregate_arrayrecords`",
    }
    merges = [key.removeprefix("seconds.") for key in values if ".whole_merge." in key]
    titles |= {
        key: f"Gobelin, whole merge, {key.rpartition('.')[2]}" for key in sorted(set(merges))
    }
    speedups = {"flower": "speedup", "flower_arrayrecords": "speedup_arrayrecords"}
    rows = [
        [
            title,
            figure(values[f"seconds.{key}"], 2),
            f"{values[f'seconds.{key}']['min']:.2f}",
            figure(values[f"cpu_seconds.{key}"], 2),
            figure(values.get(speedups.get(key, "")), 2),
        ]
        for key, title in titles.items()
        if f"seconds.{key}" in values
    ]
    heading = (
        f"## Aggregating {values['members']} × {values['parameters'] / 1e6:.0f}M parameters\n\n"
        f"`make bench-aggregation`: {values['repetitions']} repetitions in turns, "
        f"{values['threads']} threads of Gobelin (numpy's sums have one), {values['machine']}. "
        "Same bits in any order, from disk and from memory, with any number of threads: "
        f"{'yes' if values['same_bits'] else '**no**'}. Largest error in fp32 ulps of a delta "
        f"{values['error_gobelin']:.2g}, of Flower's {values['error_flower']:.2g}. "
        f"Goal: {values['goal']}.\n"
    )
    heads = ["mean", "seconds", "best", "processor seconds", "times Gobelin is faster"]
    return "\n".join([heading, table(heads, rows)])


def memory_table(values: Mapping[str, Any]) -> str:
    """Peak memory of the aggregator by nodes, beside Flower's FedAvg."""
    variants = list(dict.fromkeys(_variant(key) for key in values if key.endswith(".vectors")))
    counts = sorted({*values["nodes"], *values["flower_nodes"]})
    measures = {
        "vectors": "anonymous",
        "vectors_with_idle": "anonymous, idle included",
        "hwm_vectors": "resident, mapped files included",
    }
    rows = [
        [
            f"{variant}, {title}",
            *(_number(values.get(f"{variant}.{count}.{key}"), 2) for count in counts),
        ]
        for variant in variants
        for key, title in measures.items()
    ]
    against = _number(values.get("growth_flower"), 2)
    heading = (
        f"## Peak memory of the aggregator, {values['parameters'] / 1e6:.0f}M parameters\n\n"
        f"`make bench-aggregator_memory`: {values['rounds']} rounds, {values['threads']} threads, "
        f"{values['machine']}. In vectors of 4 × P bytes, above the idle process: anonymous "
        "memory, looked at every 3 ms; and the kernel's peak of resident pages, which counts the "
        "page cache of mapped files as well. From the fewest nodes to the most the peak of "
        f"anonymous memory grows {values['growth']:.2f} times (codec and outer optimizer "
        f"{values['headline']}), Flower's {against} times. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["nodes", *map(str, counts)], rows)])


def train_step_table(values: Mapping[str, Any]) -> str:
    """Images a second of a training step, beside stable-pretraining's, and how far losses part."""
    titles = {"step": "on ready views", "with_views": "with views"}
    rows = [
        [
            title,
            *(_number(values[key]["images_per_s"][side], 0) for side in SIDES),
            _number(values[key]["speedup"], 2),
        ]
        for key, title in titles.items()
    ]
    curve, parity = values["curve"], values["parity"]
    views = values["views"]
    compiled = "compiled" if values["compiled"] else "not compiled"
    heading = (
        f"## A training step, {values['device']}\n\n"
        f"`python -m bench.train_step`: recipe {values['recipe']} with linear patches, "
        f"{values['precision']}, {compiled}, {values['batch']} images a step of "
        f"{views['global_views']} + {views['local_views']} views, median of "
        f"{values['repetitions']} turns, {values['machine']}, PyTorch's threads: "
        f"{values['threads']}, loaders of stable-pretraining's views: {values['loaders']}. Images "
        f"a second. Same weights, same loss: over {len(curve['gobelin'])} steps in fp32 the two "
        f"part by {curve['max_rel_error']:.1e} at most. Loss of the first step on this device "
        f"against the CPU, worst of {len(parity) - 1} objectives: {parity['max_rel_error']:.1e}. "
        f"Goal: {values['goal']}.\n"
    )
    heads = ["step", "stable-pretraining", "Gobelin", "times faster"]
    return "\n".join([heading, table(heads, rows)])


def _variant(key: str) -> str:
    """`gobelin.fp32.sgd` of `gobelin.fp32.sgd.16.vectors`."""
    return key.rsplit(".", 2)[0]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

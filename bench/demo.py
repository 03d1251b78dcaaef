"""The demo over several seeds: the whole federation as processes each time, with spread.

Writes bench/results/demo.json; `bench.tables` makes docs/results.md from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.measure import spread, write_result
from examples.demo import MEMBERS, Plan, run
from gobelin.shared.data.fashion_mnist import fetch_fashion_mnist

PROBES = ("tokens", "pooled", "knn", "few_shot", "loss", "effective_rank")


def main() -> None:
    """Run the demo for each seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    runs = []
    for seed in options.seeds:
        folder = Path("runs") / "bench-demo" / f"seed-{seed}"
        runs.append(run(Plan(folder, images, seed=seed), Console()))
    print(write_result("demo", summarise(runs, options.seeds)))


def summarise(runs: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """Flat keys: every row's probes with spread, the premium, the gap to pooled, the costs."""
    values: dict[str, Any] = {
        "seeds": seeds,
        "steps": runs[0]["steps"],
        "rounds": runs[0]["rounds"],
    }
    for row in runs[0]["probes"]:
        for probe in PROBES:
            found = [run["probes"][row][probe] for run in runs]
            if None not in found:
                values[f"{row}.{probe}"] = spread(found)
    premiums = [
        [run["members"][m]["consensus"] - run["members"][m]["solo"] for m in MEMBERS]
        for run in runs
    ]
    values["premium"] = spread([sum(row) / len(row) for row in premiums])
    values["least_premium"] = spread([min(row) for row in premiums])
    values["premium_global"] = spread(
        [run["consensus"] - max(run["solo_global"].values()) for run in runs]
    )
    values["gap_to_pooled"] = spread([run["pooled"] - run["consensus"] for run in runs])
    values["goal"] = "gap_to_pooled <= 1 point; least_premium >= 0"
    for cost in ("seconds", "node_peak_mb", "round_overhead_s", "round_overhead_max_s"):
        values[cost] = spread([run[cost] for run in runs])
    return values


if __name__ == "__main__":
    main()

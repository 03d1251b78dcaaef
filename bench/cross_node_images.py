"""Does cross-node SIGReg help on images? Members who have other kinds of clothes, with and without.

The consensus of `premium_images`' members, at the same seeds and steps, plain and with moments
exchanged as in a real round; SCENARIOS says how their data differ.

Writes bench/results/cross_node_images.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from bench.measure import run_all, spread, write_result
from bench.premium_images import LABELS, PROBES, Job, scenario_data
from examples.in_process import federate_in_process
from gobelin.shared.data.fashion_mnist import fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import load_recipe

SCENARIOS = ("classes", "even")
MODELS = ("plain", "cross_node")


def run_job(job: Job) -> dict[str, float]:
    """Train the consensus and probe it; how far members agree in the last round goes with it."""
    recipe = load_recipe("tiny")
    members, labelled, test = scenario_data(job)
    cosines: list[float] = []
    vector = federate_in_process(
        recipe,
        members,
        job.rounds,
        job.local_steps,
        job.seed,
        cross_node=job.model == "cross_node",
        on_merge=lambda _, merged: cosines.append(merged.facts["cosine"]),
    )
    model = encoder_of(recipe, vector)
    found = evaluate_model(model, labelled, test, label_budget=LABELS, seed=job.seed)
    return {probe: getattr(found, probe) for probe in PROBES} | {"cosine": cosines[-1]}


def main() -> None:
    """Run both models of every scenario and seed, two at a time on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="cross_node_images", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    jobs = [
        Job(images, scenario, model, options.rounds, options.local_steps, seed)
        for seed in options.seeds
        for scenario in options.scenarios
        for model in MODELS
    ]
    found = run_all(run_job, jobs, options.workers)
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "goal": "report the gain whatever it is",
    }
    for scenario in options.scenarios:
        plain, across = (
            [found[job] for job in jobs if (job.scenario, job.model) == (scenario, model)]
            for model in MODELS
        )
        for figure in (*PROBES, "cosine"):
            values[f"{scenario}.plain.{figure}"] = spread([run[figure] for run in plain])
            values[f"{scenario}.cross_node.{figure}"] = spread([run[figure] for run in across])
            values[f"{scenario}.gain.{figure}"] = spread(
                [b[figure] - a[figure] for a, b in zip(plain, across, strict=True)]
            )
    print(write_result(options.name, values))


if __name__ == "__main__":
    main()

"""When does federating pay on images? The same comparison where members differ in other ways.

Each of SCENARIOS gives three members private Fashion-MNIST images; solo, consensus and pooled see
the same number of samples; all are probed on one test set that covers what any member has.

Writes bench/results/premium_images.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from examples.in_process import federate_in_process
from gobelin.shared.data import MemorySource
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed

MEMBERS = ("a", "b", "c")
KINDS = {"a": (0, 2, 4, 6), "b": (5, 7, 9), "c": (1, 3, 8)}  # tops; footwear; the rest
SCENARIOS = {
    "even": "every member has a third of everything",
    "classes": "every member has other kinds of clothes (tops; footwear; the rest)",
    "scanners": "every member's scanner differs (as is; turned by 90°; negative): real images, "
    "made-up scanners",
    "few": "every member has 200 images",
}
PROBES = ("tokens", "pooled", "knn", "few_shot")
LABELS, TESTS = 10_000, 5_000


@dataclass(frozen=True)
class Job:
    """One model of one scenario: a member's, the pooled one, or the consensus."""

    images: Path
    scenario: str
    model: str
    rounds: int
    local_steps: int
    seed: int


def run_job(job: Job) -> dict[str, float]:
    """Train the model and probe it."""
    recipe = load_recipe("tiny")
    members, labelled, test = scenario_data(job)
    if job.model == "consensus":
        vector = federate_in_process(recipe, members, job.rounds, job.local_steps, job.seed)
    else:
        mine = pooled(members) if job.model == "pooled" else members[job.model]
        steps = job.rounds * job.local_steps
        vector = federate_in_process(recipe, {job.model: mine}, 1, steps, job.seed)
    model = encoder_of(recipe, vector)
    found = evaluate_model(model, labelled, test, label_budget=LABELS, seed=job.seed)
    return {probe: getattr(found, probe) for probe in PROBES}


def scenario_data(job: Job) -> tuple[dict[str, MemorySource], MemorySource, MemorySource]:
    """The members' private images, and labelled training and test images for the probes."""
    train, train_labels = read(job.images / TRAIN, 60_000, job.seed)
    test, test_labels = read(job.images / TEST, TESTS, job.seed)
    thirds = np.array_split(np.arange(len(train)), 3)
    if job.scenario == "classes":
        parts = {m: np.flatnonzero(np.isin(train_labels.numpy(), KINDS[m])) for m in MEMBERS}
    elif job.scenario == "few":
        parts = {m: part[:200] for m, part in zip(MEMBERS, thirds, strict=True)}
    else:
        parts = dict(zip(MEMBERS, thirds, strict=True))
    if job.scenario == "scanners":
        train = scanned(train, thirds)
        test = scanned(test, np.array_split(np.arange(len(test)), 3))
    members = {m: MemorySource(train[part], train_labels[part]) for m, part in parts.items()}
    return members, MemorySource(train, train_labels), MemorySource(test, test_labels)


def read(path: Path, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` images and labels in a seeded order."""
    source = load_recipe("tiny").modality().open(path)
    order = np.random.default_rng(derive_seed(seed, "order")).permutation(len(source))[:count]
    assert source.labels is not None
    return source.read(order), source.labels[torch.from_numpy(order)]


def scanned(images: Tensor, thirds: list[np.ndarray[Any, Any]]) -> Tensor:
    """The images as three scanners give them: as they are, turned, negative."""
    images = images.clone()
    images[thirds[1]] = torch.rot90(images[thirds[1]], dims=(2, 3))
    images[thirds[2]] = 255 - images[thirds[2]]
    return images


def pooled(members: Mapping[str, MemorySource]) -> MemorySource:
    """All members' images in one place."""
    everything = [source.read(np.arange(len(source))) for source in members.values()]
    return MemorySource(torch.cat(everything))


def main() -> None:
    """Run every scenario and seed, two models at a time on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="premium_images", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    models = ("consensus", "pooled", *MEMBERS)
    jobs = [
        Job(images, scenario, model, options.rounds, options.local_steps, seed)
        for seed in options.seeds
        for scenario in options.scenarios
        for model in models
    ]
    found = run_all(run_job, jobs, os.cpu_count() or 1)
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "goal": "report the premium whatever it is",
    }
    for scenario in options.scenarios:
        here = {
            model: [found[job] for job in jobs if (job.scenario, job.model) == (scenario, model)]
            for model in models
        }
        values |= scenario_values(scenario, here)
    print(write_result(options.name, values))


def scenario_values(scenario: str, here: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Flat keys of one scenario: each model's probes, and the consensus's lead over each."""
    values: dict[str, Any] = {}
    for probe in PROBES:
        rows = {model: [run[probe] for run in runs] for model, runs in here.items()}
        solos = list(zip(*(rows[m] for m in MEMBERS), strict=True))  # a tuple a seed
        for model, row in rows.items():
            values[f"{scenario}.{model}.{probe}"] = spread(row)
        pairs = list(zip(rows["consensus"], solos, strict=True))
        values[f"{scenario}.premium_mean.{probe}"] = spread([c - sum(s) / 3 for c, s in pairs])
        values[f"{scenario}.premium_least.{probe}"] = spread([c - max(s) for c, s in pairs])
        values[f"{scenario}.gap_to_pooled.{probe}"] = spread(
            [p - c for p, c in zip(rows["pooled"], rows["consensus"], strict=True)]
        )
    return values


if __name__ == "__main__":
    main()

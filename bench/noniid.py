"""Eight members, each with other kinds of clothes: does the consensus harm nobody?

Fashion-MNIST is split by Dirichlet(0.1) over labels. Every member trains alone and in the
consensus: plain FedAvg, with cross-node SIGReg, with outer momentum as well. `pooled` has all
images and the same number of steps. The linear probe on tokens is tested on all test images, and
class by class: weighted by a member's own mix of classes that is the accuracy on data like the
member's. A member's premium is what the consensus gains there over the member alone.

Writes bench/results/noniid.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import run_all, spread, write_result
from bench.premium_images import LABELS, pooled, read
from examples.in_process import federate_in_process
from gobelin.server.outer import Nesterov, OuterOptimizer, Sgd
from gobelin.shared.data import MemorySource, Subset
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import load_recipe

MINIMUM = 200  # images the smallest member has
CONSENSUS: dict[str, tuple[bool, OuterOptimizer]] = {  # whether moments are exchanged
    "fedavg": (False, Sgd()),
    "moments": (True, Sgd()),
    "momentum": (True, Nesterov(1.0, 0.5)),
}
BEST = "momentum"  # the consensus that stands for the federation in the result's plain keys
PROBES = ("tokens", "pooled", "knn", "few_shot")


@dataclass(frozen=True)
class World:
    """Who has what: `members` with shares by Dirichlet(`alpha`), cut to `images` each."""

    members: int = 8
    alpha: float = 0.1
    images: int | None = None

    def shares(self, labels: torch.Tensor, seed: int) -> list[np.ndarray[Any, Any]]:
        """Each member's indices, disjoint."""
        parts = dirichlet(labels, self.members, self.alpha, seed, MINIMUM)
        shuffled = [np.random.default_rng(seed).permutation(part) for part in parts]
        return [np.sort(part[: self.images]) for part in shuffled]


@dataclass(frozen=True)
class Job:
    """One model of one world: a member's, by its number, or `pooled`, or a consensus."""

    data: Path
    world: World
    model: str
    rounds: int
    local_steps: int
    seed: int
    recipe: str = "tiny"
    labels: int = LABELS  # labelled images the probes get
    tests: int = 10_000

    @classmethod
    def of(cls, model: str, rounds: int, local_steps: int, **rest: Any) -> Job:
        """The job of a model; one that trains alone knows no rounds."""
        if model not in CONSENSUS:
            rounds, local_steps = 1, rounds * local_steps
        return cls(model=model, rounds=rounds, local_steps=local_steps, **rest)


@dataclass(frozen=True)
class Found:
    """Percent: each probe on all test images, and the token probe's by class; members' mixes."""

    probes: Mapping[str, float]
    by_class: Sequence[float]
    mixes: Sequence[Sequence[float]]  # a member's shares of the classes

    def on(self, member: int) -> float:
        """Token probe on data like a member's."""
        return float(np.dot(self.by_class, self.mixes[member]))


def run_job(job: Job) -> Found:
    """Train the model and probe it."""
    images, labels = read(job.data / TRAIN, 60_000, job.seed)
    parts = job.world.shares(labels, job.seed)
    members = {f"{k:03d}": MemorySource(images[part]) for k, part in enumerate(parts)}
    recipe = load_recipe(job.recipe)
    cross_node, outer = CONSENSUS.get(job.model, (False, None))
    if job.model not in CONSENSUS:
        mine = pooled(members) if job.model == "pooled" else members[job.model]
        members = {job.model: mine}
    vector = federate_in_process(
        recipe, members, job.rounds, job.local_steps, job.seed, outer, cross_node=cross_node
    )
    test = MemorySource(*read(job.data / TEST, job.tests, job.seed))
    kinds = {str(c): Subset(test, np.flatnonzero(test.labels == c)) for c in range(10)}
    found = evaluate_model(
        encoder_of(recipe, vector),
        MemorySource(images, labels),
        test,
        label_budget=job.labels,
        seed=job.seed,
        also=kinds,
    )
    mixes = [np.bincount(labels[part], minlength=len(kinds)) / len(part) for part in parts]
    return Found(
        {probe: getattr(found, probe) for probe in PROBES},
        [found.also[kind] for kind in kinds],
        [mix.tolist() for mix in mixes],
    )


def models_of(world: World) -> list[str]:
    """All models of a world, the long ones first."""
    return [*CONSENSUS, "pooled", *(f"{k:03d}" for k in range(world.members))]


def compared(rows: Mapping[str, Sequence[Found]]) -> dict[str, Any]:
    """Flat keys of one world, from each model's finds seed by seed.

    `premium` is the mean over members of what the consensus gains over the member alone on data
    like the member's, `least_premium` that of the member that gains least, `over_best_solo` the
    consensus over the best solo on all test images.
    """
    solos = list(zip(*(runs for model, runs in rows.items() if model.isdigit()), strict=True))
    values: dict[str, Any] = {
        f"{model}.{probe}": spread([run.probes[probe] for run in runs])
        for model, runs in rows.items()
        if not model.isdigit()
        for probe in PROBES
    }
    for probe in PROBES:
        alone = [[run.probes[probe] for run in seed] for seed in solos]
        values[f"solo_mean.{probe}"] = spread([sum(seed) / len(seed) for seed in alone])
        values[f"solo_best.{probe}"] = spread([max(seed) for seed in alone])
    for model in CONSENSUS:
        prefix = "" if model == BEST else f"{model}."
        pairs = list(zip(rows[model], solos, rows["pooled"], strict=True))
        own = [[run.on(k) - alone.on(k) for k, alone in enumerate(seed)] for run, seed, _ in pairs]
        values[f"{prefix}premium"] = spread([sum(gains) / len(gains) for gains in own])
        values[f"{prefix}least_premium"] = spread([min(gains) for gains in own])
        for probe in PROBES:
            key = "" if probe == "tokens" else f".{probe}"
            best = [max(alone.probes[probe] for alone in seed) for seed in solos]
            here = [run.probes[probe] for run, _, _ in pairs]
            values[f"{prefix}over_best_solo{key}"] = spread(
                [h - b for h, b in zip(here, best, strict=True)]
            )
            values[f"{prefix}gap_to_pooled{key}"] = spread(
                [pooled.probes[probe] - h for (_, _, pooled), h in zip(pairs, here, strict=True)]
            )
    return values


def main() -> None:
    """Run every model and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, default=World.members)
    parser.add_argument("--alpha", type=float, default=World.alpha)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--local-steps", type=int, default=25)
    parser.add_argument("--recipe", default=Job.recipe)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="noniid", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    world = World(options.members, options.alpha)
    rounds, local_steps, recipe = options.rounds, options.local_steps, options.recipe
    jobs = [
        Job(images, world, model, rounds, local_steps, seed, recipe)
        for seed in options.seeds
        for model in models_of(world)
    ]
    found = run_all(run_job, jobs, options.workers)
    rows = {model: [found[job] for job in jobs if job.model == model] for model in models_of(world)}
    values = {
        "seeds": options.seeds,
        "members": world.members,
        "alpha": world.alpha,
        "rounds": rounds,
        "local_steps": local_steps,
        "recipe": recipe,
        "goal": "gap_to_pooled <= 2 points; least_premium >= 0",
    }
    print(write_result(options.name, values | compared(rows)))


if __name__ == "__main__":
    main()

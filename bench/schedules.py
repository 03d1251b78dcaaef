"""What slow nodes and fragments cost: the same federation under other schedules.

Members with Dirichlet(α) shares of Fashion-MNIST train in one process. Baseline: everybody takes
all local steps and whole deltas are exchanged. Against it, with a third of the members slow:
waiting for nobody (they are left out), their few steps averaged as they come, and normalised as
the merge does; and with everybody in time: rounds that exchange fragments. The figure is the
linear probe on tokens; `bytes` is what a node sends, fp32, over all rounds.

Writes bench/results/schedules.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from bench.premium_images import read
from examples.in_process import federate_in_process
from gobelin.server.geometry import Deltas
from gobelin.server.merge import Counted, Merged, Merger
from gobelin.server.outer import make_outer
from gobelin.shared.data import MemorySource
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector


class AsTheyCome(Merger):
    """The merge without normalisation."""

    def merge(
        self, deltas: Deltas, counted: Sequence[Counted], state: Mapping[str, Tensor]
    ) -> Merged:
        """The merge of contributions that seem to be of equal steps."""
        return super().merge(deltas, [replace(row, steps=1) for row in counted], state)


@dataclass(frozen=True)
class Schedule:
    """How the rounds differ from the baseline's."""

    slow: bool = False  # a third of the members have time for `SLOW` of their steps
    wait: bool = True  # for those
    normalise: bool = True
    fragments: int = 1
    alpha: float = 1.0


SLOW = 0.15
SCHEDULES = {
    "all_in_time": Schedule(),
    "slow.left_out": Schedule(slow=True, wait=False),
    "slow.as_they_come": Schedule(slow=True, normalise=False),
    "slow.normalised": Schedule(slow=True),
    "fragments_2": Schedule(fragments=2),
    "fragments_2.alpha_0.5": Schedule(fragments=2, alpha=0.5),
    "fragments_3": Schedule(fragments=3),
}


@dataclass(frozen=True)
class Job:
    """One federation."""

    images: Path
    schedule: str
    seed: int
    recipe: str
    members: int
    rounds: int
    local_steps: int
    outer: str
    alpha: float
    labels: int


def run_job(job: Job) -> dict[str, float]:
    """Federate under a schedule and probe the consensus."""
    recipe, schedule = load_recipe(job.recipe), SCHEDULES[job.schedule]
    train, labels = read(job.images / TRAIN, 60_000, job.seed)
    test, test_labels = read(job.images / TEST, 5_000, job.seed)
    parts = dirichlet(labels, job.members, job.alpha, job.seed, minimum=200)
    members = {
        f"m{i:02d}": MemorySource(train[torch.from_numpy(np.asarray(part))])
        for i, part in enumerate(parts)
    }
    slow = sorted(members)[: job.members // 3] if schedule.slow else []
    sent: list[int] = []

    def leave_out(
        number: int, base: ParameterVector, deltas: Mapping[str, ParameterVector]
    ) -> Mapping[str, ParameterVector]:
        sent.append(4 * next(iter(deltas.values())).schema.size)
        return deltas if schedule.wait else {m: d for m, d in deltas.items() if m not in slow}

    vector = federate_in_process(
        recipe,
        members,
        job.rounds,
        job.local_steps,
        job.seed,
        make_outer(job.outer),
        taken=dict.fromkeys(slow, max(1, round(SLOW * job.local_steps))),
        fragments=schedule.fragments,
        alpha=schedule.alpha,
        merger=Merger() if schedule.normalise else AsTheyCome(),
        tamper=leave_out,
    )
    model = encoder_of(recipe, vector)
    found = evaluate_model(
        model,
        MemorySource(train, labels),
        MemorySource(test, test_labels),
        label_budget=job.labels,
        seed=job.seed,
    )
    return {"tokens": found.tokens, "pooled": found.pooled or 0.0, "bytes": float(sum(sent))}


def main() -> None:
    """Run every schedule and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--local-steps", type=int, default=20)
    parser.add_argument("--outer", default="sgd")
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    shared = ("recipe", "members", "rounds", "local_steps", "outer", "alpha", "labels")
    common = {name: getattr(options, name) for name in shared}
    jobs = [
        Job(images, schedule, seed, **common)
        for seed in options.seeds
        for schedule in options.schedules
    ]
    found = run_all(run_job, jobs, options.workers)
    values: dict[str, Any] = {**common, "seeds": options.seeds, "slow_share_of_steps": SLOW}
    for schedule in options.schedules:
        runs = [figures for job, figures in found.items() if job.schedule == schedule]
        for figure in runs[0]:
            values[f"{schedule}.{figure}"] = spread([run[figure] for run in runs])
    print(write_result("schedules", values))


if __name__ == "__main__":
    main()

"""Bytes until the consensus is as good as the pooled model, less three points.

Three members with a few thousand images of Fashion-MNIST each. The baseline is what Flower's
FedAvg does by default: fp32 both ways, a round after every epoch. Against it, other numbers of
local steps H and codecs with error feedback, in the same run. Steps, schedule, seeds and data are
equal; so is the warm inner optimizer, which stock Flower does not keep.

The accuracy is of the 10-shot probe: by a linear probe on thousands of labels random weights are
within three points of pooled already, at no bytes at all. Bytes are those of whole contributions
as Flower carries them (bench.codec); `both_ways` adds the base as the members receive it, fp32.

Writes bench/results/bytes_to_accuracy.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.codec import contribution_bytes
from bench.measure import run_all, spread, write_result
from bench.premium_images import pooled, read
from examples.in_process import federate_in_process
from gobelin.server.merge import Merged
from gobelin.server.outer import Sgd
from gobelin.shared.codec import CODECS
from gobelin.shared.data import MemorySource
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.evaluation import embed
from gobelin.shared.evaluation.probes import few_shot
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

MEMBERS, LABELLED, TESTS, SHOTS = 3, 2_000, 5_000, 10
SLACK = 3.0  # points below pooled that count as reached
RECIPE = "tiny"
POOLED = "pooled"


@dataclass(frozen=True)
class Job:
    """One federation, or with the codec POOLED one model on all images."""

    data: Path
    codec: str
    local_steps: int
    steps: int
    images: int  # a member's
    seed: int


@dataclass(frozen=True)
class Round:
    """Where the consensus stands after a round."""

    accuracy: float  # percent, 10-shot
    up: int  # bytes all members have sent so far
    down: int  # bytes all members have received so far

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return self.up + self.down


def run_job(job: Job) -> list[Round]:
    """Federate, and probe the consensus after every round."""
    recipe = load_recipe(RECIPE)
    images, labels = read(job.data / TRAIN, MEMBERS * job.images + LABELLED, job.seed)
    probe = Probe(
        MemorySource(images[-LABELLED:], labels[-LABELLED:]),
        MemorySource(*read(job.data / TEST, TESTS, job.seed)),
        job.seed,
    )
    parts = np.split(np.arange(MEMBERS * job.images), MEMBERS)
    members = {f"m{k}": MemorySource(images[part]) for k, part in enumerate(parts)}
    if job.codec == POOLED:
        vector = federate_in_process(recipe, {POOLED: pooled(members)}, 1, job.steps, job.seed)
        return [Round(probe.accuracy(vector), 0, 0)]
    sent: list[int] = []
    rounds: list[Round] = []
    base = ParameterVector.of(build_jepa(recipe, job.seed))
    received = contribution_bytes("fp32", 1, base)  # as many as an fp32 contribution

    def weigh(number: int, deltas: list[ParameterVector]) -> None:
        sent.extend(contribution_bytes(job.codec, number, delta) for delta in deltas)

    def judge(number: int, merged: Merged) -> None:
        nonlocal base
        base = ParameterVector(base.schema, Sgd().step(base.values, merged.delta, {})[0])
        rounds.append(Round(probe.accuracy(base), sum(sent), number * MEMBERS * received))

    federate_in_process(
        recipe,
        members,
        job.steps // job.local_steps,
        job.local_steps,
        job.seed,
        on_round=weigh,
        codec=job.codec,
        on_merge=judge,
    )
    return rounds


@dataclass(frozen=True)
class Probe:
    """Ten labels a class, several draws."""

    labelled: MemorySource
    test: MemorySource
    seed: int

    def accuracy(self, vector: ParameterVector) -> float:
        """Percent on the test images."""
        model = encoder_of(load_recipe(RECIPE), vector)
        known, unseen = embed(model, self.labelled), embed(model, self.test)
        sets = (known.pooled, known.labels, unseen.pooled, unseen.labels)
        return few_shot(*sets, 10, shots=SHOTS, seed=self.seed)


def reached(rounds: Sequence[Round], accuracy: float) -> Round | None:
    """The first round at which the consensus is that good."""
    return next((state for state in rounds if state.accuracy >= accuracy), None)


def summarise(
    found: Mapping[Job, Sequence[Round]], baseline: tuple[str, int], best: tuple[str, int]
) -> dict[str, Any]:
    """Flat keys CODEC.H.figure, and for `best` without that prefix.

    Ratios are to the baseline of the same seed; `reached` says in how many seeds there is one.
    """
    pooled = {job.seed: rounds[-1].accuracy for job, rounds in found.items() if job.codec == POOLED}
    ends: dict[tuple[str, int], dict[int, Round | None]] = {}
    last: dict[tuple[str, int], list[float]] = {}
    for job, rounds in found.items():
        if job.codec != POOLED:
            arm = (job.codec, job.local_steps)
            ends.setdefault(arm, {})[job.seed] = reached(rounds, pooled[job.seed] - SLACK)
            last.setdefault(arm, []).append(rounds[-1].accuracy)
    values: dict[str, Any] = {"pooled": spread(list(pooled.values()))}
    for arm, by_seed in ends.items():
        pairs = [(ends[baseline][seed], end) for seed, end in by_seed.items()]
        both = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
        figures: dict[str, Any] = {
            "reached": len(both),
            "final": spread(last[arm]),
        }
        if both:
            figures |= {
                "megabytes_up": spread([ours.up / 1e6 for _, ours in both]),
                "megabytes_both_ways": spread([ours.total / 1e6 for _, ours in both]),
                "ratio": spread([theirs.up / ours.up for theirs, ours in both]),
                "ratio_both_ways": spread([theirs.total / ours.total for theirs, ours in both]),
            }
        for name, figure in figures.items():
            values[f"{arm[0]}.H{arm[1]}.{name}"] = figure
            if arm == best:
                values[name] = figure
    return values


def main() -> None:
    """Run every federation and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--codecs", nargs="+", default=["topk", "int4"], choices=sorted(CODECS))
    parser.add_argument("--local-steps", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=3200, help="a member's")
    parser.add_argument("--best", nargs=2, default=["topk", "100"], help="codec and H of `ratio`")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="bytes_to_accuracy", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    epoch = options.images // load_recipe(RECIPE).inner.batch_size
    best = (options.best[0], int(options.best[1]))
    arms = dict.fromkeys(
        [
            ("fp32", epoch),
            *((codec, steps) for codec in options.codecs for steps in options.local_steps),
            best,
        ]
    )
    jobs = [
        Job(images, codec, local_steps, options.steps, options.images, seed)
        for seed in options.seeds
        for codec, local_steps in (*arms, (POOLED, options.steps))
    ]
    found = run_all(run_job, jobs, options.workers)
    values = {
        "seeds": options.seeds,
        "steps": options.steps,
        "images": options.images,
        "epoch": epoch,
        "slack": SLACK,
        "best": list(best),
        "goal": "ratio >= 50",
    }
    print(write_result(options.name, values | summarise(found, ("fp32", epoch), best)))


if __name__ == "__main__":
    main()

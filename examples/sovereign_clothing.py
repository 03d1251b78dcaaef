"""A region's clothing classifier from 10 labels a class.

Real images (Fashion-MNIST), a made-up scanner: the region has them turned by 90°, which no member
of the federation has seen. It has 100 labels, 10 a class, and 6,000 images nobody has labelled.
What does it gain by building on the consensus, by which method, and what does that forget?

    python -m examples.sovereign_clothing        # or: make sovereign-clothing

Consensus and solo models are those of `bench.releases` (5 core-minutes a seed where they are not
there yet; $GOBELIN_BENCH_RELEASES says where); after that a minute a seed. Writes table.md, and
the first seed's signed model with its report, under runs/sovereign_clothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bench.releases import KEEP, Labelled, federation, members, public, region
from examples.sovereign import (
    BRIEF,
    CACHE,
    Place,
    Rows,
    Run,
    label_methods,
    part,
    run_example,
    taken,
    trained,
)
from gobelin.client.sovereign import Given
from gobelin.client.sovereign.assessment import Region
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.shared.data import MemorySource
from gobelin.shared.evaluation.benchmarks import Classification
from gobelin.shared.evaluation.probes import few_of
from gobelin.shared.recipe import load_recipe

SCANNER = "turned"
SHOTS = 10  # labels a class
TEST, UNLABELLED = 2_000, 6_000
KEPT = "pre-train on own images, linear head"
METHODS = label_methods(KEPT)
COLUMNS = ("accuracy", "over consensus", "over scratch", "over solo", "points lost")


def run(run: Run) -> Rows:
    """One seed: every method, and what it is compared with."""
    return region_of(run).compare(run, run.shortened(METHODS), keep=KEPT)


def region_of(run: Run) -> Place:
    """The region's labels, its unlabelled images, its test set, and the consensus."""
    mine, open_to_all = region(SCANNER, run.seed), public(run.seed)
    labels = mine.labelled.labels
    assert labels is not None
    few = few_of(labels, 10, SHOTS, draw=0, seed=run.seed).numpy()
    tests, unlabelled = (60, 200) if run.fast else (TEST, UNLABELLED)
    train = part(mine.labelled, np.sort(few))
    test = part(mine.test, np.arange(tests))
    consensus, solo = models(run)
    own = MemorySource(mine.labelled.read(np.arange(unlabelled)))
    return Place(
        SCANNER,
        taken(consensus),
        Given(train, test, unlabelled=own),
        Region("clothes, turned", train, test),
        EvaluationSettings.model_validate(
            {**BRIEF, "solo": solo, "shifted_samples": 20 if run.fast else 200, "severities": (3,)}
        ),
        [benchmark(open_to_all, run)],
    )


def benchmark(labelled: Labelled, run: Run) -> Classification:
    """What the consensus is for: the same clothes as its members have them."""
    count = 200 if run.fast else 2_000
    train, test = (part(s, np.arange(count)) for s in (labelled.labelled, labelled.test))
    return Classification("clothes as the members see them", train, test, 10, seed=run.seed)


def models(run: Run) -> tuple[Path, Path]:
    """The consensus and one member's own model; in the fast form hardly trained at all."""
    if not run.fast:
        names = ("round-16", "solo")
        federation(run.seed, names=names)
        folder = Path(os.environ.get(KEEP, CACHE / "releases")) / f"seed-{run.seed}"
        return folder / names[0], folder / names[1]
    folder, recipe = run.out / "trained", load_recipe("toy")
    data = {name: part(source, np.arange(64)) for name, source in members(run.seed).items()}
    first = dict(list(data.items())[:1])
    return (
        trained(folder / "consensus", recipe, data, 2, 2, run.seed),
        trained(folder / "solo", recipe, first, 1, 4, run.seed),
    )


if __name__ == "__main__":
    run_example("sovereign_clothing", __doc__.split("\n")[0], run, COLUMNS)

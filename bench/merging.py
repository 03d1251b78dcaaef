"""Builds of two regions on one release become one: what is it worth to either?

Two regions (`bench.releases`: real images, made-up scanners: one turns them, one gives negatives)
fine-tune the whole model on 1,000 labels each, on the release of round 16. Each way to merge is
asked both regions' tests (1,000 images each); beside it stand each build alone, the release under a
head fitted on either region's labels, and a joint build on both regions' labels, which no region
could make, for nobody has both. Heads are joined: classes are the same, so rows are averaged.

`both` is the mean over the two regions' tests, `worst` the lesser. `task-arithmetic`, `ties` and
`dare` are asked for several λ; which is best is said of all of them, so as to choose a default.

Writes bench/results/merging.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import run_all, spread, write_result
from bench.releases import Labelled, federation, region
from gobelin.client.sovereign.build import Given, make_model
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.lineage import Origin
from gobelin.client.sovereign.merge import merge_models
from gobelin.client.sovereign.merging import Dare, Method, TaskArithmetic, Ties, Weights
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.client.sovereign.tune import score
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.data.fashion_mnist import CLASS_NAMES

REGIONS = ("turned", "negative")
LABELS, TESTS = 1_000, 1_000
BUILD: dict[str, Any] = {
    "method": "full",
    "head": {"kind": "pooled"},
    "tuning": {"steps": 200, "every": 100, "lr": 1e-3},
}
WAYS: dict[str, Method] = {
    "weights": Weights(),
    "task-arithmetic 0.3": TaskArithmetic(0.3),
    "task-arithmetic 0.7": TaskArithmetic(0.7),
    "task-arithmetic 1": TaskArithmetic(1.0),
    "ties 0.2": Ties(0.2, 1.0),
    "ties 0.5": Ties(0.5, 1.0),
    "dare 0.5": Dare(0.5, 0.5),
    "dare 0.9": Dare(0.9, 0.5),
}


@dataclass(frozen=True)
class Job:
    """One seed."""

    seed: int
    folder: Path | None = None


def run_job(job: Job) -> dict[str, dict[str, float]]:
    """Percent on each region's test images, of every model."""
    release = federation(job.seed, job.folder, ("round-16",))["round-16"]
    origin = Origin(round=16, vector_digest=release.vector.digest)
    consensus = Consensus(release.recipe, release.vector, origin)
    regions = {name: some(region(name, job.seed)) for name in REGIONS}
    tests = {name: mine.test for name, mine in regions.items()}
    builds = {n: built(consensus, r.labelled, n, job.seed) for n, r in regions.items()}
    joint = built(consensus, together([r.labelled for r in regions.values()]), "joint", job.seed)
    frozen = {n: frozen_of(consensus, r.labelled, n, job.seed) for n, r in regions.items()}
    found = {f"{name} alone": right(model, tests) for name, model in builds.items()}
    found |= {f"release, head of {name}": right(model, tests) for name, model in frozen.items()}
    found["joint"] = right(joint, tests)
    for way, method in WAYS.items():
        merged = merge_models([*builds.values()], release.vector, method, region="both")
        found[way] = right(merged, tests)
    return found


def some(mine: Labelled) -> Labelled:
    """As many labels and tests as this study takes."""
    labelled = mine.labelled.read(np.arange(LABELS)), labels_of(mine.labelled)[:LABELS]
    test = mine.test.read(np.arange(TESTS)), labels_of(mine.test)[:TESTS]
    return Labelled(MemorySource(*labelled, CLASS_NAMES), MemorySource(*test, CLASS_NAMES))


def together(sources: Sequence[Source]) -> MemorySource:
    """All regions' labelled images in one place."""
    images = torch.cat([source.read(np.arange(len(source))) for source in sources])
    return MemorySource(images, torch.cat([labels_of(s) for s in sources]), CLASS_NAMES)


def labels_of(source: Source) -> torch.Tensor:
    """Of a source that has some."""
    assert source.labels is not None
    return source.labels


def built(consensus: Consensus, data: Source, name: str, seed: int) -> SovereignModel:
    """A region's build; the joint one has twice the labels and twice the steps."""
    tuning = {**BUILD["tuning"], "steps": BUILD["tuning"]["steps"] * len(data) // LABELS}
    return make_model(consensus, Given(data), _settings(name, seed, BUILD | {"tuning": tuning}))


def frozen_of(consensus: Consensus, data: Source, name: str, seed: int) -> SovereignModel:
    """The release under a head of the same kind."""
    kinds = {"method": "linear", "head": BUILD["head"]}
    return make_model(consensus, Given(data), _settings(name, seed, kinds))


def _settings(name: str, seed: int, rest: Mapping[str, Any]) -> BuildSettings:
    where = Path("-")
    return BuildSettings(
        release=where, data=where, out=where, region=name, seed=seed, unverified=True, **rest
    )


def right(model: SovereignModel, tests: Mapping[str, Source]) -> dict[str, float]:
    """Percent told right of each region's test images."""
    model = replace(model)  # its encoder is made for this look, and goes with it
    assert model.head is not None
    return {n: score(model.encoder, model.head, test, "cpu").accuracy for n, test in tests.items()}


def compared(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Flat keys, from the finds seed by seed."""
    values: dict[str, Any] = {}
    for model in found[0]:
        rows = [seed[model] for seed in found]
        for name in REGIONS:
            values[f"{model}.{name}"] = spread([row[name] for row in rows])
        values[f"{model}.both"] = spread([sum(row.values()) / len(row) for row in rows])
        values[f"{model}.worst"] = spread([min(row.values()) for row in rows])
    for way in WAYS:
        over = [
            _both(seed[way]) - max(_both(seed[f"{name} alone"]) for name in REGIONS)
            for seed in found
        ]
        values[f"{way}.over_best_alone"] = spread(over)
    return values


def _both(row: Mapping[str, float]) -> float:
    return sum(row.values()) / len(row)


def main() -> None:
    """Run every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the releases, see bench.releases")
    parser.add_argument("--name", default="merging", help="of the result file")
    options = parser.parse_args()
    jobs = [Job(seed, options.folder) for seed in options.seeds]
    found = run_all(run_job, jobs, options.workers)
    values = {
        "seeds": options.seeds,
        "labels": LABELS,
        "build": BUILD,
        "goal": "report what merging is worth to either region, whatever it is",
    }
    print(write_result(options.name, values | compared([found[job] for job in jobs])))


if __name__ == "__main__":
    main()

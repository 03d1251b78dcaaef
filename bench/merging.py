"""Builds of two regions on one release become one: what is it worth to either?

Two regions (`bench.releases`: real images, made-up scanners) fine-tune the whole model on 1,000
labels each, on the release of round 16. Each way to merge is asked both regions' tests (1,000
images each); beside it stand each build alone, the release under a head fitted on either region's
labels, and a joint build on both regions' labels, which no region could make, for nobody has both.
Heads are joined: classes are the same, so rows are averaged. `own heads` is the same merged model
where each region's test is read by that region's head, as studies of merging mostly do: what the
merged trunk is worth, whatever becomes of the heads.

Two pairs: `near`, plain and turned by 90°, and `far`, turned and negatives, on which the head of
either region is wrong nearly always. `both` is the mean over the two regions' tests, `worst` the
lesser.

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
from gobelin.client.sovereign.merge import JOINED, merge_models
from gobelin.client.sovereign.merging import Dare, Method, TaskArithmetic, Ties, Weights
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.settings import BuildSettings
from gobelin.client.sovereign.tune import score
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.data.fashion_mnist import CLASS_NAMES

PAIRS = {"near": ("plain", "turned"), "far": ("turned", "negative")}
LABELS, TESTS = 1_000, 1_000
BUILD: dict[str, Any] = {
    "method": "full",
    "head": {"kind": "pooled"},
    "tuning": {"steps": 120, "every": 60, "lr": 1e-3},
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
    """One pair of regions, and one seed."""

    pair: str
    seed: int
    folder: Path | None = None


def run_job(job: Job) -> dict[str, dict[str, float]]:
    """Percent on each region's test images, of every model."""
    release = federation(job.seed, job.folder, ("round-16",))["round-16"]
    origin = Origin(round=16, vector_digest=release.vector.digest)
    consensus = Consensus(release.recipe, release.vector, origin)
    regions = {name: some(region(name, job.seed)) for name in PAIRS[job.pair]}
    tests = {name: mine.test for name, mine in regions.items()}
    builds = {n: built(consensus, r.labelled, n, job.seed) for n, r in regions.items()}
    joint = built(consensus, together([r.labelled for r in regions.values()]), "joint", job.seed)
    frozen = {n: frozen_of(consensus, r.labelled, n, job.seed) for n, r in regions.items()}
    found = {f"{name} alone": right(model, tests) for name, model in builds.items()}
    found |= {f"release, head of {name}": right(model, tests) for name, model in frozen.items()}
    found["joint"] = right(joint, tests)
    for way, method in WAYS.items():
        merged = merge_models(
            [*builds.values()], release.vector, method, region="both", head=JOINED
        )
        found[way] = right(merged, tests)
        found[f"{way}, own heads"] = {
            name: right(replace(merged, head=build.head), {name: tests[name]})[name]
            for name, build in builds.items()
        }
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


def compared(pair: str, found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Flat keys of a pair of regions, from the finds seed by seed."""
    values: dict[str, Any] = {}
    for model in found[0]:
        rows = [seed[model] for seed in found]
        for name in PAIRS[pair]:
            values[f"{pair}.{model}.{name}"] = spread([row[name] for row in rows])
        values[f"{pair}.{model}.both"] = spread([_both(row) for row in rows])
        values[f"{pair}.{model}.worst"] = spread([min(row.values()) for row in rows])
        over = [
            _both(seed[model]) - max(_both(seed[f"{name} alone"]) for name in PAIRS[pair])
            for seed in found
        ]
        values[f"{pair}.{model}.over_best_alone"] = spread(over)
    return values


def _both(row: Mapping[str, float]) -> float:
    return sum(row.values()) / len(row)


def main() -> None:
    """Run every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the releases, see bench.releases")
    parser.add_argument("--name", default="merging", help="of the result file")
    options = parser.parse_args()
    jobs = [Job(pair, seed, options.folder) for pair in options.pairs for seed in options.seeds]
    found = run_all(run_job, jobs, options.workers)
    values = {
        "seeds": options.seeds,
        "labels": LABELS,
        "build": BUILD,
        "goal": "report what merging is worth to either region, whatever it is",
    }
    for pair in options.pairs:
        values |= compared(pair, [found[job] for job in jobs if job.pair == pair])
    print(write_result(options.name, values))


if __name__ == "__main__":
    main()

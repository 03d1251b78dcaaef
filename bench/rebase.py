"""A build goes over to the next release: what it is worth there, and what that takes.

A region (`bench.releases`: real images, a made-up scanner that turns them) fine-tunes the whole
model on 2,000 labels on release k, carries the build over to release k + 1 as `gobelin sovereign
rebase` does, and builds anew there, which is what it is compared with. Accuracies are of 2,000 test
images; seconds are the process's own on one core, so that other work on the machine does not count.

`rebased` has its delta copied and its head aligned, and has taken no step of training; `recovered`
a twentieth of the build's steps from there. `by_default` is what the command gives: recovered where
more than a point was lost on held-out samples, and the time for whichever it was. `reused` is the
old build left as it is on its old release, `unaligned` the copied delta under the head as it was.
With every mask of the delta that there is, too.

Two pairs of releases: rounds 8 and 12, between which the federation learns fast, and 12 and 16.
Goals: `share_of_fresh` >= 0.95 at `share_of_time` <= 0.1, over both.

Writes bench/results/rebase.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import run_all, spread, write_result
from bench.releases import federation, region
from gobelin.client.sovereign.build import Given, make_model
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.lineage import Origin
from gobelin.client.sovereign.package import SovereignModel
from gobelin.client.sovereign.rebase import Mask, Rebaser, RebaseSettings
from gobelin.client.sovereign.settings import BuildSettings, LabelSettings
from gobelin.client.sovereign.tune import score
from gobelin.shared.checkpoint import Checkpoint
from gobelin.shared.data import Source, Subset

PAIRS = {"early": ("round-08", "round-12"), "late": ("round-12", "round-16")}
NAMES = ("round-08", "round-12", "round-16")
BUILDS: dict[str, dict[str, Any]] = {
    "full": {
        "method": "full",
        "head": {"kind": "pooled"},
        "tuning": {"steps": 300, "every": 100, "lr": 1e-3},
    },
    "linear": {"method": "linear"},
}
LABELS, TESTS = 2_000, 2_000
MASKS: tuple[Mask, ...] = ("none", "movement", "gradient")


@dataclass(frozen=True)
class Job:
    """One seed, and one way to build, on every release."""

    seed: int
    build: str = "full"
    folder: Path | None = None


@dataclass(frozen=True)
class Found:
    """Percent on the region's test images by stage, and seconds; facts of each mask."""

    accuracy: dict[str, float]  # before, rebased, recovered, fresh, unaligned
    seconds: dict[str, float]  # rebased, recovered, fresh
    masks: dict[str, dict[str, float]]  # kept, held-out loss, test accuracy
    needed: bool  # whether the command would have trained
    steps: int  # of the fresh build


def run_job(job: Job) -> dict[str, Found]:
    """Build on each release, carry over, recover; by pair."""
    releases = federation(job.seed, job.folder, NAMES)
    mine = region("turned", job.seed)
    test = Subset(mine.test, np.arange(TESTS))
    settings = BuildSettings(
        release=Path("-"),
        data=Path("-"),
        out=Path("-"),
        region="turned",
        seed=job.seed,
        unverified=True,
        labels=LabelSettings(budget=LABELS),
        **BUILDS[job.build],
    )
    given = Given(mine.labelled)  # nobody looks at the test images while the time is taken
    assert given.statements  # digests of the samples, which all builds share
    on = {name: _consensus(release) for name, release in releases.items()}
    built = {name: _built(consensus, given, settings) for name, consensus in on.items()}
    return {
        pair: _carried(built[old], built[new], on[old], on[new], given, test)
        for pair, (old, new) in PAIRS.items()
    }


def _built(
    consensus: Consensus, given: Given, settings: BuildSettings
) -> tuple[SovereignModel, float]:
    """A build, and the seconds it took."""
    start = time.process_time()
    model = make_model(consensus, given, settings)
    return model, time.process_time() - start


def _carried(
    built: tuple[SovereignModel, float],
    anew: tuple[SovereignModel, float],
    old: Consensus,
    new: Consensus,
    given: Given,
    test: Source,
) -> Found:
    (build, _), (fresh, seconds) = built, anew
    wanted = RebaseSettings(mask="none")
    plain = Rebaser(build, old.vector, new, given, wanted, clock=time.process_time)
    way = plain.carry()
    carried, needed = way.stages[-1], plain.needs_recovery(way)
    if build.lineage.method != "linear":
        way = plain.recover(way)
    models = {stage.name: stage.model for stage in way.stages} | {"fresh": fresh}
    models["unaligned"] = replace(carried.model, head=build.head)
    shown = {name: _right(model, test) for name, model in models.items()}
    masks = {"none": {"kept": 1.0, "loss": carried.loss or 0, "accuracy": shown["rebased"]}}
    for mask in MASKS[1:]:
        moved = replace(plain, settings=RebaseSettings(mask=mask)).carry().stages[-1]
        right = _right(moved.model, test)
        masks[mask] = {"kept": moved.facts["kept"], "loss": moved.loss or 0, "accuracy": right}
    taken = {stage.name: stage.seconds for stage in way.stages if stage.name != "before"}
    return Found(shown, {**taken, "fresh": seconds}, masks, needed, fresh.lineage.steps)


def _consensus(release: Checkpoint) -> Consensus:
    origin = Origin(round=int(release.facts["round"]), vector_digest=release.vector.digest)
    return Consensus(release.recipe, release.vector, origin)


def _right(model: SovereignModel, test: Source) -> float:
    assert model.head is not None
    return score(model.encoder, model.head, test, "cpu").accuracy


def ways(found: Found) -> tuple[float, float]:
    """Accuracy and seconds of what the command gives by default."""
    name = "recovered" if found.needed and "recovered" in found.seconds else "rebased"
    return found.accuracy[name], found.seconds[name]


def compared(rows: Mapping[tuple[str, str], Sequence[Found]]) -> dict[str, Any]:
    """Flat keys, from each build's and pair's finds seed by seed."""
    values: dict[str, Any] = {}
    for (build, pair), found in rows.items():
        where = f"{build}.{pair}"
        for name in found[0].accuracy:
            values[f"{where}.{name}"] = spread([each.accuracy[name] for each in found])
        for name in found[0].seconds:
            values[f"{where}.seconds.{name}"] = spread([each.seconds[name] for each in found])
        for name in ("rebased", "recovered", "reused", "unaligned"):
            shown = "before" if name == "reused" else name
            if shown in found[0].accuracy:
                values[f"{where}.share.{name}"] = spread(
                    [each.accuracy[shown] / each.accuracy["fresh"] for each in found]
                )
        for name in ("rebased", "recovered"):
            if name in found[0].seconds:
                values[f"{where}.time.{name}"] = spread(
                    [each.seconds[name] / each.seconds["fresh"] for each in found]
                )
        for mask in MASKS:
            for figure in ("kept", "accuracy"):
                values[f"{where}.mask.{mask}.{figure}"] = spread(
                    [each.masks[mask][figure] for each in found]
                )
        values[f"{where}.needed"] = sum(each.needed for each in found)
        values[f"{where}.steps"] = spread([each.steps for each in found])
    every = [each for (build, _), found in rows.items() if build == "full" for each in found]
    values["share_of_fresh"] = spread([ways(e)[0] / e.accuracy["fresh"] for e in every])
    values["share_of_time"] = spread([ways(e)[1] / e.seconds["fresh"] for e in every])
    values["points_behind_fresh"] = spread([e.accuracy["fresh"] - ways(e)[0] for e in every])
    return values


def main() -> None:
    """Run every build, pair and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--builds", nargs="+", default=list(BUILDS), choices=list(BUILDS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the releases, see bench.releases")
    parser.add_argument("--name", default="rebase", help="of the result file")
    options = parser.parse_args()
    jobs = [Job(seed, build, options.folder) for seed in options.seeds for build in options.builds]
    found = run_all(run_job, jobs, options.workers)
    rows = {
        (build, pair): [found[job][pair] for job in jobs if job.build == build]
        for build in options.builds
        for pair in PAIRS
    }
    values = {
        "seeds": options.seeds,
        "labels": LABELS,
        "builds": BUILDS,
        "goal": "share_of_fresh >= 0.95 at share_of_time <= 0.1",
    }
    print(write_result(options.name, values | compared(rows)))


if __name__ == "__main__":
    main()

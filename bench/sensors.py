"""Sensors: exercises told from a watch's inertial sensors, by models of which a subject is a node.

Data: `gobelin data prepare watch --split-by subject` (seglearn's watch set). Of the subjects some
are held out: no model and no probe has seen them. *Accuracy* is that of a probe fitted on the
others' labels. *AUROC* is that of telling an exercise that no one had, by the distance of its
windows to the nearest ones of the known exercises in the features.

Writes bench/results/sensors.json.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from bench.rocket import KERNELS, random_kernels, ridge_accuracy, transform
from examples.in_process import federate_in_process
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.evaluation import embed, evaluate_model, evaluate_raw
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed

HELD = 3  # subjects
NEIGHBOURS = 5
PROBES = ("tokens", "pooled", "knn", "few_shot")
MODELS = ("consensus", "pooled", "random")


@dataclass(frozen=True)
class Job:
    """One model, or the baselines, of one seed; `anomaly`: one exercise is nobody's."""

    data: Path
    model: str  # of MODELS, "baselines", or a subject
    anomaly: bool
    rounds: int
    local_steps: int
    seed: int


@dataclass(frozen=True)
class Split:
    """Who trains on what, and what is asked."""

    members: dict[str, MemorySource]
    train: MemorySource  # the members' windows together
    test: MemorySource  # windows of subjects that are no members
    unknown: int | None  # the exercise that only `test` has


def run_job(job: Job) -> dict[str, float]:
    """Train the model and probe it, or score with it."""
    recipe = load_recipe("series_tiny")
    split = split_subjects(recipe, job.data, job.seed, job.anomaly)
    if job.model == "baselines":
        return baselines(recipe, split, job.seed)
    steps = job.rounds * job.local_steps
    if job.model == "consensus":
        vector = federate_in_process(recipe, split.members, job.rounds, job.local_steps, job.seed)
    elif job.model == "random":
        vector = federate_in_process(recipe, {}, 0, 0, job.seed)
    else:
        mine = split.train if job.model == "pooled" else split.members[job.model]
        vector = federate_in_process(recipe, {job.model: mine}, 1, steps, job.seed)
    encoder = encoder_of(recipe, vector)
    if split.unknown is not None:
        known, asked = (embed(encoder, s).pooled for s in (split.train, split.test))
        return {"auroc": anomaly_auroc(known, asked, labels_of(split.test) == split.unknown)}
    found = evaluate_model(encoder, split.train, split.test, seed=job.seed)
    return {probe: getattr(found, probe) for probe in PROBES}


def baselines(recipe: Recipe, split: Split, seed: int) -> dict[str, float]:
    """What raw windows and random convolutions reach, with the same labels."""
    train, test = whole(split.train), whole(split.test)
    kernels = random_kernels(train.shape[1], train.shape[2], KERNELS, seed)
    known, asked = transform(train, kernels), transform(test, kernels)
    if split.unknown is not None:
        odd = labels_of(split.test) == split.unknown
        return {
            "raw.auroc": anomaly_auroc(train.flatten(1), test.flatten(1), odd),
            "rocket.auroc": anomaly_auroc(known, asked, odd),
        }
    raw = evaluate_raw(recipe.modality(), split.train, split.test, seed=seed)
    train_y, test_y = labels_of(split.train), labels_of(split.test)
    classes = int(train_y.max()) + 1
    return {
        "raw.knn": raw.knn,
        "raw.linear": raw.tokens,
        "rocket.ridge": ridge_accuracy(known, train_y, asked, test_y, classes),
    }


def split_subjects(recipe: Recipe, data: Path, seed: int, anomaly: bool) -> Split:
    """Subjects in a seeded order: the first HELD are asked about, the others are members."""
    folders = sorted(p for p in data.iterdir() if p.is_dir())
    order = np.random.default_rng(derive_seed(seed, "subjects")).permutation(len(folders))
    sources = {}
    for folder in (folders[i] for i in order):
        source = recipe.modality().open(folder)
        assert source.labels is not None
        sources[folder.name] = MemorySource(
            source.read(np.arange(len(source))), source.labels, source.class_names
        )
    names = list(sources)
    test = joined([sources[name] for name in names[:HELD]])
    members = {name: sources[name] for name in names[HELD:]}
    unknown = None
    if anomaly:
        unknown = derive_seed(seed, "unknown exercise") % (int(labels_of(test).max()) + 1)
        members = {name: without(source, unknown) for name, source in members.items()}
    return Split(members, joined(list(members.values())), test, unknown)


def anomaly_auroc(known: Tensor, asked: Tensor, odd: Tensor) -> float:
    """AUROC in percent of the mean distance to the nearest known features (N, F), standardised."""
    mean, deviation = known.mean(dim=0), known.std(dim=0) + 1e-8
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    near = torch.cat(
        [
            torch.cdist(part, known).topk(NEIGHBOURS, largest=False).values
            for part in torch.split(asked, 256)
        ]
    )
    return auroc(near.mean(dim=1), odd)


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Percent of pairs of a positive and a negative that scores (N,) order right; ties half."""
    high, low = scores[positive], scores[~positive]
    wins = (high[:, None] > low).double() + (high[:, None] == low).double() / 2
    return 100 * float(wins.mean())


def joined(sources: list[MemorySource]) -> MemorySource:
    """All windows in one place."""
    labels = torch.cat([labels_of(source) for source in sources])
    return MemorySource(torch.cat([whole(s) for s in sources]), labels, sources[0].class_names)


def without(source: MemorySource, label: int) -> MemorySource:
    """The windows of other labels."""
    labels = labels_of(source)
    return MemorySource(whole(source)[labels != label], labels[labels != label])


def whole(source: Source[Tensor]) -> Tensor:
    """All windows (N, T, C)."""
    return source.read(np.arange(len(source)))


def labels_of(source: Source[Tensor]) -> Tensor:
    """Labels (N,)."""
    assert source.labels is not None
    return source.labels


def main() -> None:
    """Run every model and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(".cache/watch"), help="subjects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(
            f"there is no {options.data}: `gobelin data prepare watch --split-by subject --out` it"
        )
    jobs = [
        Job(options.data, model, anomaly, options.rounds, options.local_steps, seed)
        for seed in options.seeds
        for anomaly in (False, True)
        for model in (*MODELS, "baselines", *members_of(options.data, seed))
        if not anomaly or model in (*MODELS, "baselines")
    ]
    found = run_all(run_job, jobs, options.workers)
    facts = {
        "seeds": options.seeds,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "held_subjects": HELD,
        "goal": "reported honestly, gap explained",
    }
    print(write_result("sensors", {**facts, **summary(found)}))


def members_of(data: Path, seed: int) -> list[str]:
    """Names of the members of a seed."""
    return list(split_subjects(load_recipe("series_tiny"), data, seed, False).members)


def summary(found: dict[Job, dict[str, float]]) -> dict[str, Any]:
    """Flat keys: `model.figure` over seeds, solos as their mean, and the headline figures."""
    rows: dict[str, list[float]] = {}
    for seed in sorted({job.seed for job in found}):
        here = {job: figures for job, figures in found.items() if job.seed == seed}
        solo: dict[str, list[float]] = {}
        for job, figures in here.items():
            for name, value in figures.items():
                if job.model == "baselines":
                    rows.setdefault(name, []).append(value)
                elif job.model in MODELS:
                    rows.setdefault(f"{job.model}.{name}", []).append(value)
                else:
                    solo.setdefault(name, []).append(value)
        for name, each in solo.items():
            rows.setdefault(f"solo_mean.{name}", []).append(sum(each) / len(each))
    values: dict[str, Any] = {name: spread(row) for name, row in rows.items()}
    for name, row in (("accuracy", "consensus.tokens"), ("auroc", "consensus.auroc")):
        values[name] = values[row]
    gaps = zip(rows["rocket.ridge"], rows["consensus.tokens"], strict=True)
    premiums = zip(rows["consensus.tokens"], rows["solo_mean.tokens"], strict=True)
    values["gap_to_rocket"] = spread([theirs - ours for theirs, ours in gaps])
    values["premium_mean"] = spread([ours - alone for ours, alone in premiums])
    return values


if __name__ == "__main__":
    main()

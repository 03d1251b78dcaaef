"""`make demo`: three members weave one JEPA over Flower/gRPC, and what that was worth.

Each member holds private Fashion-MNIST images that no other has, with skewed labels, each in
another format. At equal samples seen the consensus is compared with random weights, with every
member alone and with one model trained on all data pooled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from examples.loopback import Loopback
from examples.processes import one_thread, told_errors
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.data import BatchStream, Source, Subset
from gobelin.shared.data.export import write_idx, write_image_folder, write_parquet
from gobelin.shared.data.fashion_mnist import CLASS_NAMES, TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet, hold_out
from gobelin.shared.evaluation import (
    Evaluation,
    MemberWorth,
    Results,
    Row,
    embed,
    evaluate_model,
    evaluate_raw,
    print_results,
)
from gobelin.shared.evaluation.charts import Cloud, Curve
from gobelin.shared.evaluation.held_out_loss import held_out_loss
from gobelin.shared.evaluation.html import write_report
from gobelin.shared.files import write_json
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

MEMBERS = ("archive", "museum", "school")  # IDX files, a Parquet file, an image folder
HELD_OUT = 0.1  # share of its images a member keeps for evaluation
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Plan:
    """What a demo does; the bench runs several."""

    folder: Path
    images: Path  # Fashion-MNIST
    recipe: str = "tiny"
    rounds: int = 8
    local_steps: int = 50
    alpha: float = 0.3
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of every model, so that all have seen the same number of samples."""
        return self.rounds * self.local_steps

    def source(self, file: str) -> Source:
        """The training or the test images."""
        return load_recipe(self.recipe).modality().open(self.images / file)

    def shares(self) -> dict[str, tuple[Indices, Indices]]:
        """Each member's images: those it trains on, and those it holds out."""
        labels = self.source(TRAIN).labels
        assert labels is not None
        parts = dirichlet(labels, len(MEMBERS), self.alpha, self.seed, minimum=600)
        split = [hold_out(part, HELD_OUT, derive_seed(self.seed, "held out")) for part in parts]
        return dict(zip(MEMBERS, split, strict=True))


def give_out_data(plan: Plan) -> dict[str, Path]:
    """Write each member's private images, in a format of its own; returns their folders."""
    train = plan.source(TRAIN)
    folders = {}
    for member, (mine, _) in plan.shares().items():
        part = Subset(train, mine)
        images, labels = part.read(np.arange(len(part))), part.labels
        assert labels is not None
        folder = plan.folder / "data" / member
        if member == "archive":
            write_idx(folder, images, labels)
        elif member == "museum":
            write_parquet(folder, images, labels, CLASS_NAMES)
        else:
            write_image_folder(folder, images, labels, CLASS_NAMES)
        folders[member] = folder
    return folders


def federate(plan: Plan, data: dict[str, Path], console: Console) -> dict[str, Any]:
    """Run the federation as processes; returns what it cost and the nodes' training curves."""
    with Loopback(
        plan.folder / "federation",
        data,
        recipe=plan.recipe,
        rounds=plan.rounds,
        local_steps=plan.local_steps,
        seed=plan.seed,
    ) as net:
        net.found()
        net.start()
        for number in range(1, plan.rounds + 1):
            sealed = net.wait_for("round_sealed", number, timeout_s=1200)
            console.print(
                f"  round {number}/{plan.rounds} sealed in {sealed['seconds']:.1f} s, of which "
                f"{sealed['overhead_s']:.1f} s beside training"
            )
        net.wait()
        return {
            "overhead_s": [row["overhead_s"] for row in net.events("round_sealed")],
            "contributions": net.events("contribution"),
            "node_peak_mb": {
                member: json.loads((net.node_home(member) / "status.json").read_text())["peak_mb"]
                for member in data
            },
        }


@dataclass(frozen=True)
class Job:
    """One row of the table: a model to get, and to evaluate."""

    plan: Plan
    name: str  # pixels, random, pooled, consensus, or a member


def run_job(job: Job) -> Evaluation:
    """Get the model of a row (train it if need be) and evaluate it."""
    plan = job.plan
    train, test = plan.source(TRAIN), plan.source(TEST)
    if job.name == "pixels":
        return evaluate_raw(load_recipe(plan.recipe).modality(), train, test, seed=plan.seed)
    recipe, vector = model_of(job)
    model = encoder_of(recipe, vector)
    held_out = {name: Subset(train, held) for name, (_, held) in plan.shares().items()}
    loss = held_out_loss(model, recipe.objective_of(), test, seed=plan.seed)
    return evaluate_model(model, train, test, seed=plan.seed, also=held_out, loss=loss)


def model_of(job: Job) -> tuple[Recipe, ParameterVector]:
    """Recipe and vector of a row's model."""
    plan, recipe = job.plan, load_recipe(job.plan.recipe)
    if job.name == "consensus":
        net = Loopback(plan.folder / "federation", {}, rounds=plan.rounds)
        return recipe, read_checkpoint(net.release).vector
    base = ParameterVector.of(build_jepa(recipe, plan.seed))
    if job.name == "random":
        return recipe, base
    shares = plan.shares()
    everyone = np.sort(np.concatenate([mine for mine, _ in shares.values()]))
    mine = everyone if job.name == "pooled" else shares[job.name][0]
    node_seed = derive_seed(plan.seed, "node", job.name)  # a member's: as in the federation
    stream = BatchStream(Subset(plan.source(TRAIN), mine), recipe.inner.batch_size, node_seed)
    local = LocalSteps(0, plan.steps, plan.steps, plan.seed, node_seed)
    trained, _ = LocalTrainer(recipe, stream.batch).train(base, local)
    write_checkpoint(plan.folder / "models" / job.name, recipe, trained, {"trained": job.name})
    return recipe, trained


def compare(plan: Plan) -> dict[str, Evaluation]:
    """Evaluate every row, two at a time on two cores."""
    names = ["pooled", *MEMBERS, "consensus", "random", "pixels"]  # the longest first
    workers = max(1, min(len(names), os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        found = dict(zip(names, pool.map(run_job, [Job(plan, n) for n in names]), strict=True))
    return {name: found[name] for name in ("pixels", "random", *MEMBERS, "pooled", "consensus")}


def summarise(plan: Plan, found: dict[str, Evaluation]) -> Results:
    """The tables of the report."""
    titles = {"pixels": "raw pixels", "random": "random weights", "pooled": "all data pooled"}
    titles |= {member: f"{member} alone" for member in MEMBERS}
    rows = [
        Row(titles.get(name, name), evaluation, name == "consensus")
        for name, evaluation in found.items()
    ]
    worth = [
        MemberWorth(m, len(mine), found[m].also[m], found["consensus"].also[m])
        for m, (mine, _) in plan.shares().items()
    ]
    batch = load_recipe(plan.recipe).inner.batch_size
    gap = found["consensus"].tokens - found["pooled"].tokens
    mean = sum(member.premium for member in worth) / len(worth)
    notes = [
        f"Every trained model has seen {plan.steps * batch:,} images "
        f"({plan.steps} steps of {batch}); the consensus, as many per member.",
        f"Federation premium {mean:+.2f} points (mean over members); "
        f"consensus against pooled {gap:+.2f} points. Seed {plan.seed}.",
    ]
    if abs(mean) < 1:
        notes.append(
            "A premium within a point of zero is what this size of model and data gives: features "
            "are generic and compute, not data, is the limit."
        )
    return Results(rows, worth, notes)


def machine_readable(
    plan: Plan, found: dict[str, Evaluation], cost: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """`results.json`: accuracies in percent by the token probe, and the other probes."""
    overheads = cost["overhead_s"]
    return {
        "members": {
            m: {"solo": found[m].also[m], "consensus": found["consensus"].also[m]} for m in MEMBERS
        },
        "pixels": found["pixels"].tokens,
        "random": found["random"].tokens,
        "pooled": found["pooled"].tokens,
        "consensus": found["consensus"].tokens,
        "solo_global": {m: found[m].tokens for m in MEMBERS},
        "seconds": seconds,
        "node_peak_mb": max(cost["node_peak_mb"].values()),
        "round_overhead_s": sum(overheads) / len(overheads),
        "round_overhead_max_s": max(overheads),
        "probes": {name: evaluation.facts() for name, evaluation in found.items()},
        "images": {m: len(mine) for m, (mine, _) in plan.shares().items()},
        "steps": plan.steps,
        "rounds": plan.rounds,
        "seed": plan.seed,
    }


def report(plan: Plan, results: Results, cost: dict[str, Any]) -> Path:
    """Write the HTML report."""
    curves = []
    for metric in ("loss", "effective_rank"):
        for member in MEMBERS:
            rows = [row for row in cost["contributions"] if row["member"] == member]
            steps = [row["round"] * plan.local_steps for row in rows]
            values = [row["metrics"][metric] for row in rows]
            curves.append(Curve(member, metric.replace("_", " "), steps, values))
    test = plan.source(TEST)
    clouds: list[Cloud] = []
    digest = ""
    for name in ("random", "consensus"):
        recipe, vector = model_of(Job(plan, name))
        digest = vector.digest  # the consensus comes last
        seen = embed(encoder_of(recipe, vector), test, np.arange(2000))
        clouds.append(Cloud(name, seen.pooled, seen.labels, CLASS_NAMES))
    page = plan.folder / "report.html"
    facts = {"consensus": digest, "seed": str(plan.seed), "recipe": plan.recipe}
    write_report(page, results, curves, clouds, facts=facts)
    return page


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """The whole demo; returns what it also writes to results.json."""
    started = time.monotonic()
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    console.print(f"Giving {len(MEMBERS)} members private images (Dirichlet({plan.alpha})) …")
    data = give_out_data(plan)
    console.print("Founding a federation: one aggregator, three contributor nodes …")
    cost = federate(plan, data, console)
    console.print("Training every member alone, and one model on all data pooled …")
    found = compare(plan)
    results = summarise(plan, found)
    page = report(plan, results, cost)
    seconds = time.monotonic() - started
    values = machine_readable(plan, found, cost, seconds)
    write_json(plan.folder / "results.json", values)
    print_results(results, console)
    release = Loopback(plan.folder / "federation", {}, rounds=plan.rounds).release
    console.print(f"Report:    {page}\nFigures:   {plan.folder / 'results.json'}")
    console.print(f"Took {seconds:.0f} s. The consensus model lies in\n{release}", soft_wrap=True)
    return values


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the official Fashion-MNIST files")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--local-steps", type=int, default=Plan.local_steps)
    parser.add_argument("--recipe", default=Plan.recipe)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with told_errors():
        images = fetch_fashion_mnist(options.cache, options.data)
        plan = Plan(
            options.folder,
            images,
            options.recipe,
            options.rounds,
            options.local_steps,
            seed=options.seed,
        )
        run(plan, Console())


if __name__ == "__main__":
    main()

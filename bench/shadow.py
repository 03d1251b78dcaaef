"""What a node's shadow tells of federating, beside what full solo runs tell; and what it costs.

Three members with 1,500 private Fashion-MNIST images each (Dirichlet 0.3). Each is a node home with
its contributor and a shadow that may take a quarter of the training time, in one process, so that a
node has all the time between two rounds that it wants. From outside, a solo model of each member is
trained in full, on the samples that the shadow does not hold out, and is judged beside the last
consensus by the same probe on the same held-out samples, and on public test images. Then two nodes
on loopback, toy recipe, with the shadow on and off: seconds of a round, and the longest that a plan
has waited for a shadow to give way.

Writes bench/results/shadow.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import run_all, spread, write_result
from bench.premium_images import LABELS, MEMBERS, read
from examples.loopback import Loopback
from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeSettings, found_node
from gobelin.client.node_seed import node_seed
from gobelin.client.shadow.held_out import Parts
from gobelin.client.shadow.quality import Judging, judge
from gobelin.client.shadow.record import read_record
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.client.workbench import open_parts
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.data.export import write_idx
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.keys import write_authority
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

IMAGES, ALPHA = 1500, 0.3  # of a member
SHADOW = {"compute": 0.25, "held_out": 0.2}
TESTS = 2_000


@dataclass(frozen=True)
class Job:
    """One federation."""

    images: Path
    recipe: str
    rounds: int
    local_steps: int
    seed: int


@dataclass(frozen=True)
class Told:
    """One member's premium in points: as its node tells it, and from outside."""

    member: str
    points: float | None  # by the node; None where its shadow had no time for any look
    error: float  # half of its 95 % interval; 0 where none is told, as are the next two
    seen: float  # share of the samples at which it is told
    today: float  # newest consensus minus newest solo, as they are
    outside: float  # last consensus minus full solo run, on the node's held-out samples
    public: float  # the same on public test images
    share: float  # of all its training time, that the shadow took


def run_job(job: Job) -> list[Told]:
    """Run a federation of nodes with shadows, then look at it from outside."""
    recipe = load_recipe(job.recipe)
    with tempfile.TemporaryDirectory() as scratch:
        homes = dict(_found(job, Path(scratch)))
        consensus = _federate(job, recipe, homes)
        return [_told(job, recipe, name, home, consensus) for name, home in homes.items()]


def _found(job: Job, folder: Path) -> Iterator[tuple[str, NodeHome]]:
    """A node's home for each member, with its images."""
    images, labels = read(job.images / TRAIN, 60_000, job.seed)
    write_authority(folder / "tls", "fed", ["localhost"])
    parts = dirichlet(labels, len(MEMBERS), ALPHA, derive_seed(job.seed, "parts"), IMAGES)
    for name, part in zip(MEMBERS, parts, strict=True):
        rng = np.random.default_rng(derive_seed(job.seed, "images", name))
        chosen = rng.permutation(part)[:IMAGES]
        write_idx(folder / name / "data", images[chosen], labels[chosen])
        settings = {
            "member": name,
            "node": name,
            "aggregator": "localhost:1",
            "data": {"path": str(folder / name / "data")},
            "compute": {"device": "cpu", "threads": 1},
            "shadow": SHADOW,
        }
        valid = NodeSettings.model_validate(settings)
        yield name, found_node(folder / name / "home", valid, folder / "tls" / "ca.pem")


def _plan(job: Job, recipe: Recipe, number: int, base: ParameterVector) -> RoundPlan:
    return RoundPlan(
        federation="bench",
        round=number,
        rounds=job.rounds,
        recipe=recipe.canonical(),
        schema_digest=base.schema.digest,
        base_digest=base.digest,
        local_steps=job.local_steps,
        seed=job.seed,
        deadline_s=3600.0,
    )


def _federate(job: Job, recipe: Recipe, homes: dict[str, NodeHome]) -> ParameterVector:
    """The consensus after all rounds, by plain averaging; nodes rest as long as they like."""
    base = ParameterVector.of(build_jepa(recipe, job.seed))
    nodes = {name: Contributor(home, lambda _: None) for name, home in homes.items()}
    for number in range(1, job.rounds + 1):
        plan, deltas = _plan(job, recipe, number, base), []
        sent = {name: bytes(segment) for name, segment in base.segments().items()}
        for node in nodes.values():
            deltas.append(node.prepare(plan, sent).delta.values)
            while node.rest(lambda: False):
                pass
        base = ParameterVector(base.schema, base.values + torch.stack(deltas).mean(dim=0))
    return base


def _told(job: Job, recipe: Recipe, name: str, home: NodeHome, consensus: ParameterVector) -> Told:
    record = read_record(home.shadow)
    assert record is not None
    premium = record.premium()
    parts = open_parts(home.settings(), recipe)
    solo = _full_solo(job, recipe, home, parts)
    federated = sum(seconds for _, seconds in record.trained.values())
    probed = [_probed(job, recipe, vector) for vector in (consensus, solo)]
    judged = [_judged(recipe, parts, vector) for vector in (consensus, solo)]
    return Told(
        member=name,
        points=None if premium is None else premium.points,
        error=0.0 if premium is None else premium.error,
        seen=0.0 if premium is None else premium.seen,
        today=0.0 if premium is None else premium.today,
        outside=judged[0] - judged[1],
        public=probed[0] - probed[1],
        share=record.spent_s / (record.spent_s + federated),
    )


def _full_solo(job: Job, recipe: Recipe, home: NodeHome, parts: Parts) -> ParameterVector:
    """What the member has alone after as many steps, by the trainer itself."""
    start = ParameterVector.of(build_jepa(recipe, job.seed))
    seed, steps = node_seed(home, _plan(job, recipe, 1, start)), job.rounds * job.local_steps
    stream = BatchStream(parts.kept, recipe.inner.batch_size, seed)
    local = LocalSteps(0, steps, steps, job.seed, seed)
    return LocalTrainer(recipe, stream.batch).train(start, local)[0]


def _judged(recipe: Recipe, parts: Parts, vector: ParameterVector) -> float:
    """By the shadow's measure, on the node's held-out samples, %."""
    work: Judging = judge(
        encoder_of(recipe, vector), lambda: None, parts, derive_seed(0, "premium")
    )
    while True:
        try:
            next(work)
        except StopIteration as done:
            return float(done.value.percent)


def _probed(job: Job, recipe: Recipe, vector: ParameterVector) -> float:
    """Token probe on public images of all classes, %."""
    train = MemorySource(*read(job.images / TRAIN, LABELS // 2, job.seed + 1))
    test = MemorySource(*read(job.images / TEST, TESTS, job.seed))
    found = evaluate_model(encoder_of(recipe, vector), train, test, label_budget=LABELS // 2)
    return found.tokens


def loopback_seconds(folder: Path, shadow: bool, rounds: int) -> dict[str, float]:
    """Median seconds of a round of two nodes on this machine, and the longest wait for a shadow."""
    rng, members = np.random.default_rng(0), {}
    for name in ("north", "south"):
        pixels = torch.from_numpy(rng.integers(0, 256, (512, 1, 28, 28), dtype=np.uint8))
        members[name] = folder / "data" / name
        write_idx(members[name], pixels, torch.zeros(512, dtype=torch.int64))
    with Loopback(folder, members, rounds=rounds, local_steps=50) as net:
        net.found()
        if shadow:
            for name in members:
                with (net.node_home(name) / "node.toml").open("a") as file:
                    file.write("\n[shadow]\ncompute = 0.25\nheld_out = 0.2\n")
        net.start()
        net.wait()
        seconds = [event["seconds"] for event in net.events("round_sealed")][1:]
        records = [read_record(net.node_home(name) / "shadow") for name in members]
        steps = [record.solo_steps for record in records if record is not None]
        waits = [record.waited_s for record in records if record is not None]
    return {
        "round_s": statistics.median(seconds),
        "waited_s": max(waits, default=0.0),
        "solo_steps": statistics.fmean(steps) if steps else 0.0,
    }


def main() -> None:
    """Run all seeds, then the loopback federations, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3, help="of loopback federations; 0: none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    how = options.recipe, options.rounds, options.local_steps
    jobs = [Job(images, *how, seed) for seed in options.seeds]
    rows = [told for found in run_all(run_job, jobs, options.workers).values() for told in found]
    loops = {on: _repeated(on, options.repeats) for on in (False, True)}
    pairs = [(row.points, row) for row in rows if row.points is not None]
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "recipe": options.recipe,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "goal": "report what nodes tell beside what full solo runs tell, whatever it is",
        "rows": [vars(row) for row in rows],
        "told": len(pairs) / len(rows),
        "outside": spread([row.outside for row in rows]),
        "public": spread([row.public for row in rows]),
        "seen": spread([row.seen for row in rows]),
        "share": spread([row.share for row in rows]),
    }
    if pairs:
        values |= {
            "points": spread([points for points, _ in pairs]),
            "today": spread([row.today for _, row in pairs]),
            "off_by": spread([points - row.outside for points, row in pairs]),
            "within_error": sum(abs(points - row.outside) <= row.error for points, row in pairs)
            / len(pairs),
        }
    if options.repeats:
        values |= {
            "round_s_off": spread([loop["round_s"] for loop in loops[False]]),
            "round_s_on": spread([loop["round_s"] for loop in loops[True]]),
            "waited_s": spread([loop["waited_s"] for loop in loops[True]]),
            "loopback_solo_steps": spread([loop["solo_steps"] for loop in loops[True]]),
        }
    print(write_result("shadow", values))


def _repeated(shadow: bool, repeats: int) -> list[dict[str, float]]:
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            found.append(loopback_seconds(Path(scratch), shadow, rounds=8))
    return found


if __name__ == "__main__":
    main()

"""`make demo-worldmodel`: three members know a part of a world each, and the consensus all of it.

Two rooms and a door. One member has only seen the left room, one only the right one, one only what
lies around the door. Each trains the same world model from pictures and actions; the consensus is
woven over Flower/gRPC with cross-node SIGReg, and then compared with every member alone and with
one model trained on all data pooled, at equal steps: how far from the truth is what it foresees,
and how often does it get from anywhere to anywhere by planning with it?
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.in_process import federate_in_process
from examples.loopback import Loopback
from examples.processes import one_thread, told_errors
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.data import BatchStream
from gobelin.shared.data.prepare.worlds import prepare_two_room
from gobelin.shared.evaluation.foresight import Foresight, foresight
from gobelin.shared.evaluation.planning import Outcome, Policy, Task, drive, planning_policy
from gobelin.shared.files import write_json
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import Icem
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.schedule import Schedule
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worlds import REGIONS, TwoRoom

RECIPE = "two_room_parts"
MEMBERS = tuple(REGIONS)  # left, right, door
WORLD = TwoRoom()
TITLES = {"random policy": "no model: random actions", "pooled": "all data pooled"}


@dataclass(frozen=True)
class Plan:
    """What a demo does; the bench runs several."""

    folder: Path
    rounds: int = 420
    local_steps: int = 10
    warmup_rounds: int = 400  # of the rounds, the first: one local step each
    episodes: int = 1_500  # of each member
    length: int = 12  # actions of an episode
    tasks: int = 50  # journeys that every model is asked to plan
    seed: int = 0
    in_process: bool = False  # weave the consensus in one process: same bits, no sockets
    workers: int = 0  # models trained and judged at a time; 0: one a core

    @property
    def steps(self) -> int:
        """Local steps of every model."""
        return Schedule(self.rounds, self.local_steps, self.warmup_rounds).total_steps

    def data(self, member: str) -> Path:
        """A member's episodes."""
        return self.folder / "data" / member

    def task(self) -> Task:
        """Journeys from anywhere to anywhere, the same for every model."""
        random = np.random.default_rng(derive_seed(self.seed, "journeys"))
        ends = random.random((2, self.tasks, 2), dtype=np.float32)
        return Task(ends[0], ends[1])


@dataclass(frozen=True)
class Judged:
    """What one row's model can do."""

    foresight: Foresight | None  # None without a model
    outcome: Outcome


@dataclass(frozen=True)
class Job:
    """One row of the table: a model to get, and to judge."""

    plan: Plan
    name: str  # random policy, pooled, consensus, or a member


def give_out_data(plan: Plan) -> None:
    """Write each member's episodes into a folder of its own, and all of them into another."""
    folder = plan.folder / "data"
    prepare_two_room(folder, plan.episodes, plan.length, plan.seed, by_region=True)
    plan.data("pooled").mkdir()
    for member in MEMBERS:
        for file in plan.data(member).iterdir():
            os.link(file, plan.data("pooled") / f"{member}-{file.name}")


def federate(plan: Plan, console: Console) -> dict[str, Any]:
    """Found, start and run the federation to its end; returns what it cost."""
    with Loopback(
        plan.folder / "federation",
        {member: plan.data(member) for member in MEMBERS},
        recipe=RECIPE,
        rounds=plan.rounds,
        local_steps=plan.local_steps,
        seed=plan.seed,
        options=("--cross-node", "--warmup-rounds", str(plan.warmup_rounds)),
    ) as net:
        net.found()
        net.start()
        for number in range(1, plan.rounds + 1):
            sealed = net.wait_for("round_sealed", number, timeout_s=1200)
            if number % max(1, plan.rounds // 10) == 0:
                console.print(
                    f"  round {number}/{plan.rounds} sealed in {sealed['seconds']:.1f} s, of "
                    f"which {sealed['overhead_s']:.1f} s beside training"
                )
        net.wait()
        overheads = [row["overhead_s"] for row in net.events("round_sealed")]
        return {"round_overhead_s": sum(overheads) / len(overheads)}


def vector_of(plan: Plan, name: str, recipe: Recipe) -> ParameterVector:
    """The model of a row, trained if need be."""
    if name == "consensus" and plan.in_process:
        return woven_here(plan, recipe)
    if name == "consensus":
        net = Loopback(plan.folder / "federation", {}, rounds=plan.rounds)
        return read_checkpoint(net.release).vector
    node_seed = derive_seed(plan.seed, "node", name)  # a member's: as in the federation
    source = recipe.modality().open(plan.data(name))
    stream = BatchStream(source, recipe.inner.batch_size, node_seed)
    local = LocalSteps(0, plan.steps, plan.steps, plan.seed, node_seed)
    base = ParameterVector.of(build_jepa(recipe, plan.seed))
    trained, _ = LocalTrainer(recipe, stream.batch).train(base, local)
    write_checkpoint(plan.folder / "models" / name, recipe, trained, {"trained": name})
    return trained


def woven_here(plan: Plan, recipe: Recipe) -> ParameterVector:
    """The consensus that `federate` ends at, by the same arithmetic inside this process."""
    members = {member: recipe.modality().open(plan.data(member)) for member in MEMBERS}
    return federate_in_process(
        recipe,
        members,
        plan.rounds,
        plan.local_steps,
        plan.seed,
        cross_node=True,
        warmup_rounds=plan.warmup_rounds,
    )


def run_job(job: Job) -> Judged:
    """Get the model of a row and let it foresee and plan."""
    plan = job.plan
    if job.name == "random policy":
        return Judged(None, drive(WORLD, plan.task(), random_policy(plan.seed)))
    recipe = load_recipe(RECIPE)
    return judge(plan, recipe, vector_of(plan, job.name, recipe))


def judge(plan: Plan, recipe: Recipe, vector: ParameterVector) -> Judged:
    """What a model foresees, and how its plans end."""
    model, task = WorldModel(encoder_of(recipe, vector)), plan.task()
    policy = planning_policy(model, WORLD, task, Icem(), seed=plan.seed)
    return Judged(foresight(model, WORLD), drive(WORLD, task, policy))


def random_policy(seed: int) -> Policy:
    """Actions that know nothing."""
    random = np.random.default_rng(derive_seed(seed, "random policy"))
    bound = WORLD.max_step
    return lambda at: random.uniform(-bound, bound, at.shape).astype(np.float32)


def compare(plan: Plan) -> dict[str, Judged]:
    """Judge every row, as many at a time as there are cores."""
    names = ["consensus", "pooled", *MEMBERS, "random policy"]  # the longest first
    workers = max(1, min(len(names), plan.workers or os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        found = dict(zip(names, pool.map(run_job, [Job(plan, n) for n in names]), strict=True))
    return {name: found[name] for name in ("random policy", *MEMBERS, "pooled", "consensus")}


def show(found: dict[str, Judged], console: Console) -> None:
    """The table."""
    table = Table("model", "foreseen off by", "journeys done %", "steps each")
    for name, judged in found.items():
        title = TITLES.get(name, f"{name} alone" if name in MEMBERS else name)
        seen = "–" if judged.foresight is None else f"{judged.foresight.imagined:.3f}"
        steps = f"{judged.outcome.steps.mean():.1f}"
        style = "bold" if name == "consensus" else ""
        table.add_row(title, seen, f"{judged.outcome.success:.0f}", steps, style=style)
    console.print(table)


def draw(plan: Plan, found: dict[str, Judged], page: Path) -> None:
    """Where every journey ended, a panel a model."""
    from matplotlib.figure import Figure

    task, names = plan.task(), list(found)
    figure = Figure(figsize=(2.4 * len(names), 2.9), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names)), names, strict=True):
        outcome = found[name].outcome
        gap = (WORLD.door - WORLD.door_width / 2, WORLD.door + WORLD.door_width / 2)
        panel.plot([0.5, 0.5], [0, gap[0]], [0.5, 0.5], [gap[1], 1], color="#444444", linewidth=3)
        for last, goal, there in zip(outcome.last, task.goals, outcome.reached, strict=True):
            colour = "#2a7f62" if there else "#c0392b"
            panel.plot(*zip(last, goal, strict=True), color=colour, linewidth=0.8)
            panel.plot(*goal, "o", markersize=3, color=colour)
        panel.set_title(f"{name}\n{outcome.success:.0f} % there", fontsize=9)
        panel.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
    figure.savefig(page, dpi=110)


def machine_readable(
    plan: Plan, found: dict[str, Judged], cost: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """`results.json`: success in percent; errors in widths of the world."""
    success = {name: judged.outcome.success for name, judged in found.items()}
    best = max(success[member] for member in MEMBERS)
    return {
        "success": success,
        "foresight": {n: asdict(j.foresight) for n, j in found.items() if j.foresight},
        "steps_taken": {n: float(j.outcome.steps.mean()) for n, j in found.items()},
        "premium": success["consensus"] / max(best, 100 / plan.tasks),
        "gap_to_pooled": success["pooled"] - success["consensus"],
        "seconds": seconds,
        "steps": plan.steps,
        "rounds": plan.rounds,
        "warmup_rounds": plan.warmup_rounds,
        "local_steps": plan.local_steps,
        "tasks": plan.tasks,
        "seed": plan.seed,
        "in_process": plan.in_process,
        **cost,
    }


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """The whole demo; returns what it also writes to results.json."""
    started = time.monotonic()
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    console.print("Giving three members films of a part of the world each …")
    give_out_data(plan)
    cost = {}
    if not plan.in_process:
        console.print("Founding a federation: one aggregator, three contributor nodes …")
        cost = federate(plan, console)
    console.print("Training every member alone and one model on all data, and planning with all …")
    found = compare(plan)
    seconds = time.monotonic() - started
    values = machine_readable(plan, found, cost, seconds)
    write_json(plan.folder / "results.json", values)
    draw(plan, found, plan.folder / "journeys.png")
    show(found, console)
    console.print(
        f"The consensus does {values['premium']:.1f} times the journeys of the best member alone; "
        f"pooled is {values['gap_to_pooled']:+.0f} points ahead of it. Seed {plan.seed}."
    )
    console.print(f"Picture: {plan.folder / 'journeys.png'}\nTook {seconds:.0f} s.")
    return values


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-worldmodel"))
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--local-steps", type=int, default=Plan.local_steps)
    parser.add_argument("--warmup-rounds", type=int, default=Plan.warmup_rounds)
    parser.add_argument("--episodes", type=int, default=Plan.episodes)
    parser.add_argument("--tasks", type=int, default=Plan.tasks)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    with told_errors():
        run(Plan(**options), Console())


if __name__ == "__main__":
    main()

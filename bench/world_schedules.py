"""How many local steps, and when? Members who know a part of the world each, by schedule.

The federation of `examples/demo_worldmodel` (cross-node SIGReg, moments a round
late) computed by `examples/in_process`, which equals the real one to the byte; members take equally
many steps under every schedule. `warm` is how many rounds have one local step, `H` the steps of the
others; `momentum` is outer Nesterov with lr 1 and μ = 0.5, else members' models are averaged. The
learning rate rises for 5 % of the steps (recipe two_room), or for 20 % in `slow` (two_room_parts).

Writes bench/results/world_schedules.json: foresight and journeys done of each schedule, and pooled.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import run_all, spread, write_result
from examples.demo_worldmodel import (
    MEMBERS,
    RECIPE,
    Judged,
    Plan,
    give_out_data,
    judge,
    vector_of,
)
from examples.in_process import federate_in_process
from gobelin.server.outer import Nesterov, Sgd
from gobelin.shared.recipe import load_recipe


@dataclass(frozen=True)
class Setting:
    """How a federation goes about its steps."""

    warm: int
    local_steps: int
    momentum: float = 0.0
    recipe: str = "two_room"

    def rounds(self, steps: int) -> int:
        """All of them for so many steps, the warm-up's too."""
        return self.warm + (steps - self.warm) // self.local_steps


SETTINGS = {
    "H 10": Setting(0, 10),
    "H 10, momentum": Setting(0, 10, 0.5),
    "H 5, momentum": Setting(0, 5, 0.5),
    "warm 100, H 10": Setting(100, 10),
    "warm 200, H 10": Setting(200, 10),
    "warm 300, H 10": Setting(300, 10),
    "warm 300, H 20": Setting(300, 20),
    "warm 300, H 10, momentum": Setting(300, 10, 0.5),
    "H 1": Setting(0, 1),
    "warm 300, H 10, slow": Setting(300, 10, recipe=RECIPE),
    "warm 400, H 10, slow": Setting(400, 10, recipe=RECIPE),
}


@dataclass(frozen=True)
class Job:
    """One model of one seed, pooled or by a schedule."""

    folder: Path
    seed: int
    name: str
    steps: int


def run_job(job: Job) -> Judged:
    """Train the model and judge it."""
    if job.name == "pooled":
        recipe = load_recipe(Setting.recipe)
        plan = Plan(job.folder, rounds=job.steps, local_steps=1, warmup_rounds=0, seed=job.seed)
        return judge(plan, recipe, vector_of(plan, job.name, recipe))
    setting = SETTINGS[job.name]
    recipe = load_recipe(setting.recipe)
    rounds = setting.rounds(job.steps)
    plan = Plan(job.folder, rounds, setting.local_steps, setting.warm, seed=job.seed)
    vector = federate_in_process(
        recipe,
        {member: recipe.modality().open(plan.data(member)) for member in MEMBERS},
        rounds,
        setting.local_steps,
        job.seed,
        Nesterov(1.0, setting.momentum) if setting.momentum else Sgd(),
        cross_node=True,
        warmup_rounds=setting.warm,
    )
    return judge(plan, recipe, vector)


def summarise(found: Mapping[str, Sequence[Judged]], steps: int) -> dict[str, object]:
    """Figures of every row with spread over the seeds."""
    values: dict[str, object] = {"rows": list(found)}
    for name, rows in found.items():
        seen = [row.foresight for row in rows if row.foresight is not None]
        values[f"{name}.imagined"] = spread([one.imagined for one in seen])
        values[f"{name}.decoded"] = spread([one.decoded for one in seen])
        values[f"{name}.success"] = spread([row.outcome.success for row in rows])
        values[f"{name}.rounds"] = SETTINGS[name].rounds(steps) if name in SETTINGS else 0
    return values


def main() -> None:
    """Run every schedule and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=600, help="of every model")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="world_schedules", help="of the result file")
    options = parser.parse_args()
    names = ["pooled", *options.settings]
    with TemporaryDirectory() as tmp:
        folders = {seed: Path(tmp) / str(seed) for seed in options.seeds}
        for seed, folder in folders.items():
            folder.mkdir()
            give_out_data(Plan(folder, seed=seed))
        jobs = {
            name: [Job(folders[seed], seed, name, options.steps) for seed in options.seeds]
            for name in names
        }
        found = run_all(run_job, [job for row in jobs.values() for job in row], options.workers)
    values = summarise(
        {name: [found[job] for job in row] for name, row in jobs.items()}, options.steps
    )
    print(write_result(options.name, {"seeds": options.seeds, "steps": options.steps, **values}))


if __name__ == "__main__":
    main()

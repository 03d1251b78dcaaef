"""Does a consensus know a world of which every member has seen a part?

Two rooms and a door (`bench.two_rooms`). Member `left` has only the left room, `right` only the
right one, `door` the strip on both sides of the wall. Each trains the same small world model,
alone and federated; `pooled` has all their episodes and the same number of steps. The consensus
is plain FedAvg, or has cross-node SIGReg by characteristic-function sketches or by moments and the
mean of the members' AdamW moments (three vectors a round instead of one); `momentum` adds outer
Nesterov, `momentum_often` halves H as well. Moments are of the round's own base here; the real
round has them one round late. What else was tried: bench.remedies.

Writes bench/results/split_world.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.measure import run_all, spread, write_result
from bench.split_rounds import Setting, federate
from bench.two_rooms import EPISODES, LR, Film, error_of
from gobelin.server.outer import Nesterov
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import REGIONS

MOMENTS = Setting(cross_node="moments", inner="averaged")
MOMENTUM = replace(MOMENTS, outer=Nesterov(1.0, 0.5))
CONSENSUS = {
    "fedavg": Setting(),
    "sketch": Setting(cross_node="sketch", inner="averaged"),
    "moments": MOMENTS,
    "momentum": MOMENTUM,
    "momentum_often": replace(MOMENTUM, local_steps=5),
}
BEST = "momentum_often"  # the consensus that stands for the federation in the plain keys


@dataclass(frozen=True)
class Job:
    """One model of one seed, from the films of one region, of all `pooled`, or of `members`."""

    films: str
    seed: int
    steps: int
    setting: Setting


def run_job(job: Job) -> dict[str, float]:
    """Train and judge the model."""
    films = {
        name: Film.of(region, EPISODES, derive_seed(job.seed, name))
        for name, region in REGIONS.items()
        if job.films in (name, "pooled", "members")
    }
    mine = list(films.values())
    if job.films == "pooled":
        mine = [Film.cat(mine)]
    return error_of(federate(mine, job.seed, job.steps, job.setting))


def models_of(seed: int, steps: int) -> dict[str, Job]:
    """Every model; `pooled_faster` has 1.5 times the learning rate, `pooled_longer` has seen as
    many samples as the members together."""
    jobs = {name: Job("members", seed, steps, setting) for name, setting in CONSENSUS.items()}
    alone = Setting(local_steps=3 * steps)
    jobs |= {name: Job(name, seed, steps, alone) for name in ("pooled", *REGIONS)}
    jobs["pooled_faster"] = replace(jobs["pooled"], setting=replace(alone, lr=1.5 * LR))
    jobs["pooled_longer"] = replace(jobs["pooled"], steps=len(REGIONS) * steps)
    return jobs


def values_of(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, object]:
    """Errors of every model, and the consensus's ratios to pooled and to the best solo, a seed."""
    errors = {name: [run["imagined"] for run in runs] for name, runs in rows.items()}
    values: dict[str, object] = {"standing_still": rows["pooled"][0]["still"]}
    for name, runs in rows.items():
        values[name] = spread(errors[name])
        values[f"{name}.decoded"] = spread([run["decoded"] for run in runs])
    solos = list(zip(*(errors[region] for region in REGIONS), strict=True))  # a tuple a seed
    for name in CONSENSUS:
        prefix = "" if name == BEST else f"{name}."
        values[f"{prefix}over_pooled"] = spread(ratios(errors[name], errors["pooled"]))
        for yardstick in ("pooled_faster", "pooled_longer"):
            values[f"{prefix}over_{yardstick}"] = spread(ratios(errors[name], errors[yardstick]))
        values[f"{prefix}over_best_solo"] = spread(ratios(errors[name], list(map(min, solos))))
    return values


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def main() -> None:
    """Run every model and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=900, help="of every member, and pooled")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="split_world", help="of the result file")
    options = parser.parse_args()
    jobs = {seed: models_of(seed, options.steps) for seed in options.seeds}
    found = run_all(
        run_job, [job for models in jobs.values() for job in models.values()], options.workers
    )
    values: dict[str, object] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "goal": "over_pooled at most 1.25, over_best_solo below 1",
    }
    rows = {
        name: [found[models[name]] for models in jobs.values()] for name in jobs[options.seeds[0]]
    }
    print(write_result(options.name, values | values_of(rows)))


if __name__ == "__main__":
    main()

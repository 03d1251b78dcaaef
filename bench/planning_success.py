"""How often does a world model get there? Planning from pixels, beside what needs no model.

For every seed and world a model of the world's recipe is trained in this process and asked to
plan from a picture of where it is to a picture of the goal, 50 episodes each. Beside it: random
actions; goal-conditioned behaviour cloning with the same encoder on the same films; and
stable-worldmodel's CEMSolver on the same model, cost and horizon, with more candidates a decision
than ours. Success is being at the goal within the budget of actions.

Planner and horizon are the defaults of `planning_policy`. How long to train was set after runs of
seed 100, which no figure is of, and is longer than those. It is the same for model and cloning, in
steps and in pictures.

stable-worldmodel is wanted as `bench.planning_time` says. Writes
bench/results/planning_success.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from bench.cloning import clone, cloned_policy
from bench.measure import run_all, spread, write_result
from bench.planning_baseline import BASELINE, Baseline
from bench.planning_worlds import CASES, Case
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.planning import Outcome, Policy, Task, drive, planning_policy
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning import Icem, Plan, Planner, Problem
from gobelin.shared.planning.problem import plan_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

PARTS = ("model", "cloning")  # of a case: with a world model, and without
THEIRS = {"num_samples": 128, "n_steps": 6, "topk": 12, "var_scale": 0.5}  # Icem's, undecayed

Job: TypeAlias = tuple[str, int, str, int, int, str]  # case, seed, part, steps, episodes, baseline


@dataclass(frozen=True)
class Ended:
    """What became of each episode: whether it ended at its goal, after how many steps."""

    reached: tuple[bool, ...]
    steps: tuple[int, ...]  # the budget where it never did

    @classmethod
    def of(cls, outcome: Outcome) -> Ended:
        """Of an outcome, as plain numbers."""
        return cls(tuple(outcome.reached.tolist()), tuple(outcome.steps.tolist()))

    @property
    def success(self) -> float:
        """Percent."""
        return 100 * sum(self.reached) / len(self.reached)


@dataclass(frozen=True)
class Found:
    """What one part of a case comes to."""

    outcomes: dict[str, Ended]  # of its rows
    training_s: float  # of the processor, as the next
    planning_s: float


@dataclass(frozen=True)
class Solver:
    """stable-worldmodel's CEMSolver as a planner: our problem's model, cost and bounds."""

    baseline: Baseline

    def search(self, problem: Problem, seed: int, warm: Tensor | None = None) -> Plan:
        """What it returns, clamped to the bounds as its candidates are."""
        batch, horizon, size = problem.shape
        width = problem.own_space.half_width

        def allowed(actions: Tensor) -> Tensor:
            return problem.project(actions * width)

        costable = types.SimpleNamespace(
            get_cost=lambda info, actions: problem.judge(allowed(actions)).cost
        )
        solver = self.baseline.solver(costable, batch_size=batch, seed=seed % 2**31, **THEIRS)
        solver.configure(
            action_space=self.baseline.box(-1, 1, (batch, size)),
            n_envs=batch,
            config=types.SimpleNamespace(horizon=horizon, action_block=1),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            start = None if warm is None else warm / width
            found = solver.solve({"start": problem.start}, init_action=start)["actions"]
        return plan_of(problem.judge(allowed(found.clone())[:, None]))


def train(case: Case, seed: int, steps: int) -> WorldModel:
    """A world model of the case's recipe, trained on its films."""
    recipe = load_recipe(case.recipe)
    (table,) = recipe.modalities.values()
    batches = case.film(seed).windows(seed, table.model_dump()["steps"], recipe.inner.batch_size)
    base = ParameterVector.of(build_jepa(recipe, seed))
    local = LocalSteps(0, steps, steps, seed, derive_seed(seed, "node"))
    trained, _ = LocalTrainer(recipe, batches).train(base, local)
    return WorldModel(encoder_of(recipe, trained))


def run_job(job: Job) -> Found:
    """Outcomes of the rows of one part: of the model, or of what needs none."""
    name, seed, part, steps, episodes, baseline = job
    case = CASES[name]
    task = case.task(seed, episodes)
    started = time.process_time()
    if part == "cloning":
        cloner = clone(load_recipe(case.recipe), case.film(seed), case.world, seed, steps)
        trained = time.process_time() - started
        policies = {
            "cloning": cloned_policy(cloner, case.world, task),
            "random": random_policy(case, seed),
        }
    else:
        model = train(case, seed, steps)
        trained = time.process_time() - started
        planners: dict[str, Planner] = {"planning": Icem()}
        if baseline:
            planners["solver"] = Solver(Baseline(Path(baseline)))
        policies = {row: planned(case, model, task, p, seed) for row, p in planners.items()}
    outcomes = {row: Ended.of(drive(case.world, task, p)) for row, p in policies.items()}
    return Found(outcomes, trained, time.process_time() - started - trained)


def planned(case: Case, model: WorldModel, task: Task, planner: Planner, seed: int) -> Policy:
    """What acts by planning, in this case's horizon."""
    return planning_policy(
        model,
        case.world,
        task,
        planner,
        horizon=case.horizon,
        replan_every=case.replan_every,
        seed=seed,
    )


def random_policy(case: Case, seed: int) -> Policy:
    """Actions that know nothing."""
    random = np.random.default_rng(derive_seed(seed, "random policy"))
    bound, size = case.world.max_step, case.world.actions
    return lambda at: random.uniform(-bound, bound, (len(at), size)).astype(np.float32)


def wilson(successes: int, tries: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, in percent (Wilson 1927)."""
    share, weight = successes / tries, z * z / tries
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / tries + weight / (4 * tries)) / (1 + weight)
    return 100 * (middle - half), 100 * (middle + half)


def figures(name: str, by_seed: Sequence[Mapping[str, Ended]]) -> dict[str, Any]:
    """A case's figures, flat: success in percent with spread over seeds, and its interval."""
    values: dict[str, Any] = {}
    for row in by_seed[0]:
        outcomes = [found[row] for found in by_seed]
        reached = [there for outcome in outcomes for there in outcome.reached]
        key = name if row == "planning" else f"{name}.{row}"
        values[key] = spread([outcome.success for outcome in outcomes])
        values[f"{key}.by_seed"] = [outcome.success for outcome in outcomes]
        values[f"{key}.interval"] = wilson(sum(reached), len(reached))
        values[f"{key}.steps_taken"] = spread([statistics.fmean(o.steps) for o in outcomes])
    return values


def main() -> None:
    """Run every case, seed and part, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--steps", type=int, help="of training; each case's own where unset")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="stable-worldmodel's place")
    parser.add_argument("--name", default="planning_success", help="of the result file")
    options = parser.parse_args()
    try:
        Baseline(options.baseline)
    except ConfigError as error:
        parser.error(str(error))
    steps = {name: options.steps or CASES[name].steps for name in options.cases}
    jobs: list[Job] = [
        (name, seed, part, steps[name], options.episodes, str(options.baseline.absolute()))
        for part in PARTS  # the longest first
        for name in reversed(options.cases)
        for seed in options.seeds
    ]
    found = run_all(run_job, jobs, options.workers)
    values: dict[str, Any] = {
        "cases": options.cases,
        "seeds": options.seeds,
        "episodes": options.episodes,
        "goal": "easy >= 90; harder ahead of random and cloning",
    }
    for name in options.cases:
        parts = {p: [found[job] for job in jobs if job[0] == name and job[2] == p] for p in PARTS}
        rows = [
            {**model.outcomes, **other.outcomes}
            for model, other in zip(*parts.values(), strict=True)
        ]
        values |= figures(name, rows)
        values[f"{name}.training_s"] = spread([part.training_s for part in parts["model"]])
        values[f"{name}.planning_s"] = spread([part.planning_s for part in parts["model"]])
        values[f"{name}.steps"] = steps[name]
        values[f"{name}.recipe"] = CASES[name].recipe
        values[f"{name}.horizon"] = CASES[name].horizon
    print(write_result(options.name, values))


if __name__ == "__main__":
    main()

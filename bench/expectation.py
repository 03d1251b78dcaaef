"""Is a world model surprised where physics breaks? Violation of expectation in two rooms.

For every seed a model of the recipe two_room is trained in this process, on all of the world, and
shown unseen episodes with a teleport, a recoloured dot or wall, or shuffled time. An untrained
model of the same seed is asked the same: what it finds surprising was there without training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from bench.measure import run_all, spread, write_result
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.evaluation.expectation import (
    Setup,
    expectation,
    require_two_room,
    two_room_violations,
)
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worlds import TwoRoom

RECIPE, EPISODES, LENGTH = "two_room", 4500, 12
TESTED = Setup(episodes=100)

Job: TypeAlias = tuple[int, int]  # seed, steps of training
Found: TypeAlias = dict[str, dict[str, float | int | None]]


def windows(seed: int, episodes: int, steps: int, batch: int) -> Callable[[int], Trajectories]:
    """Global step → windows of so many steps, of episodes anywhere in the world."""
    world = TwoRoom()
    shown = world.episodes(episodes, LENGTH, derive_seed(seed, "films"))
    flat = torch.from_numpy(world.render(shown.positions.reshape(-1, 2)))
    pictures = flat.view(episodes, LENGTH + 1, *flat.shape[1:])
    actions = torch.from_numpy(shown.actions)

    def of_step(step: int) -> Trajectories:
        random = np.random.default_rng(derive_seed(seed, "batch", step))
        rows = random.integers(episodes, size=(batch, 1))
        times = random.integers(LENGTH - steps + 1, size=(batch, 1)) + np.arange(steps + 1)
        return Trajectories(pictures[rows, times], actions[rows, times[:, :-1]])

    return of_step


def train(seed: int, steps: int, episodes: int = EPISODES) -> ParameterVector:
    """The recipe's parameters after so many steps; with none, as they were made."""
    recipe = load_recipe(RECIPE)
    base = ParameterVector.of(build_jepa(recipe, seed))
    if not steps:
        return base
    (table,) = recipe.modalities.values()
    batches = windows(seed, episodes, table.model_dump()["steps"], recipe.inner.batch_size)
    trainer = LocalTrainer(recipe, batches)
    local = LocalSteps(0, steps, steps, seed, derive_seed(seed, "node"))
    trained, _ = trainer.train(base, local)
    return trained


def run_job(job: Job) -> Found:
    """What a model of this seed takes of each violation."""
    seed, steps = job
    model = WorldModel(encoder_of(load_recipe(RECIPE), train(seed, steps)))
    seen = two_room_violations(require_two_room(model), TESTED)
    return {name: taken.facts() for name, taken in expectation(model, seen, TESTED).items()}


def values_of(trained: Sequence[Found], untrained: Sequence[Found]) -> dict[str, Any]:
    """Each violation's figures over seeds."""
    values: dict[str, Any] = {"violations": list(trained[0])}
    for prefix, found in (("", trained), ("untrained.", untrained)):
        for name in found[0]:
            rows = [each[name] for each in found]
            for figure in ("untouched", "violated", "noticed", "auroc"):
                values[f"{prefix}{name}.{figure}"] = spread([told(row, figure) for row in rows])
            values[f"{prefix}{name}.p"] = max(told(row, "p") for row in rows)
    return values


def told(row: Mapping[str, float | int | None], figure: str) -> float:
    """A figure of a violation that is always there, as all are but t."""
    value = row[figure]
    assert value is not None
    return value


def main() -> None:
    """Run every seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="expectation", help="of the result file")
    options = parser.parse_args()
    jobs: Mapping[int, list[Job]] = {
        steps: [(seed, steps) for seed in options.seeds] for steps in (options.steps, 0)
    }
    found = run_all(run_job, [job for some in jobs.values() for job in some], options.workers)
    trained, untrained = ([found[job] for job in some] for some in jobs.values())
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "recipe": RECIPE,
        "episodes": TESTED.episodes,
        "around": TESTED.around,
        "goal": "teleport p < 0.01 for every seed",
    }
    print(write_result(options.name, values | values_of(trained, untrained)))


if __name__ == "__main__":
    main()

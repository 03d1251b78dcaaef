"""A robot cell's world model: the same world, other dynamics, and few trajectories.

Two rooms and a door, simulated exactly. Three members of the federation have each seen a part of
the world, as in `make demo-worldmodel`; in the region's cell the motors are mounted askew: every
push is turned by 40° and a third weaker. The cell has recorded 40 short episodes. How much of what
happens within 8 steps does its model foresee, in the world's own units, and what has it forgotten
of the old world, where the same push does another thing?

    python -m examples.sovereign_world           # or: make sovereign-world

Needs no data. Five minutes a seed, half of it for the consensus. Writes table.md, and the first
seed's signed model with its report, under runs/sovereign_world. *Solo* is a model of the cell's
own episodes alone, of as many steps as each member took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.demo_worldmodel import RECIPE, Plan
from examples.sovereign import (
    BRIEF,
    CACHE,
    FEW_STEPS,
    Place,
    Rows,
    Run,
    run_example,
    taken,
    trained,
)
from gobelin.client.sovereign import Given
from gobelin.client.sovereign.assessment import Region
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.shared.data.episodes import EpisodeSource
from gobelin.shared.data.export import write_episodes
from gobelin.shared.evaluation.surprise import open_episodes
from gobelin.shared.evaluation.world_benchmarks import Foreseeing
from gobelin.shared.model import encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.schedule import Schedule
from gobelin.shared.seeds import derive_seed
from gobelin.shared.worlds import REGIONS, TwoRoom

OWN, PUBLIC, TEST = 40, 400, 300  # episodes of the cell, of the old world for anyone, to test on
HORIZON = 8  # steps foreseen
KEPT, REHEARSING = "predictor alone", "all of it, rehearsing the old world"
METHODS = {
    KEPT: {"moves": "predictor"},
    "LoRA": {"moves": "lora"},
    "all of it": {"moves": "full"},
    REHEARSING: {"moves": "full"},
}
COLUMNS = ("foresight", "over consensus", "over scratch", "over solo", "points lost")


@dataclass(frozen=True)
class Cell(TwoRoom):
    """Two rooms whose motors push askew, and weaker."""

    turn: float = np.deg2rad(40.0)
    gain: float = 0.67

    def step(
        self, positions: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Positions (N, 2) after actions (N, 2)."""
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        turn = np.array([[cosine, sine], [-sine, cosine]], dtype=np.float32)
        clipped = np.clip(actions, -self.max_step, self.max_step)
        return super().step(positions, (self.gain * clipped @ turn).astype(np.float32))


def run(run: Run) -> Rows:
    """One seed: what moves of the model, and what it is compared with."""
    recipe = load_recipe(RECIPE)
    data = recorded(run)
    consensus, solo = models(run, recipe, data)
    place = region_of(run, taken(consensus), solo, data)
    methods = {}
    for name, changes in METHODS.items():
        pretrain = FEW_STEPS if run.fast else {"steps": 300}
        own = {"rehearsal": data / "general"} if name == REHEARSING else {}
        methods[name] = {"method": "pretrain", "pretrain": {**changes, **pretrain, **own}}
    return place.compare(run, methods, keep=KEPT)


def recorded(run: Run) -> Path:
    """Every part's episodes with the states that nobody trains on; returns their folder."""
    folder = run.out / "data" / f"seed-{run.seed}"
    few = 30 if run.fast else None
    for name, box in REGIONS.items():
        write(folder / name, TwoRoom(), few or Plan.episodes, run, name, box=box)
    write(folder / "own", Cell(), few or OWN, run, "own")
    write(folder / "test", Cell(), few or TEST, run, "test")
    write(folder / "general", TwoRoom(), few or PUBLIC, run, "general")
    write(folder / "general-test", TwoRoom(), few or TEST, run, "general test")
    return folder


def write(
    folder: Path, world: TwoRoom, count: int, run: Run, purpose: str, **options: object
) -> None:
    """Episodes of a world as a member's node reads them."""
    seed = derive_seed(run.seed, "episodes", purpose)
    region = {"region": options["box"]} if "box" in options else {}
    shown = world.episodes(count, Plan.length, seed, **region)  # type: ignore[arg-type]
    pictures = world.render(shown.positions.reshape(-1, 2))
    seen = pictures.reshape(count, Plan.length + 1, *pictures.shape[1:])
    write_episodes(folder / "episodes.npz", seen, shown.actions, shown.positions)


def models(run: Run, recipe: Recipe, data: Path) -> tuple[Path, Path]:
    """The consensus of three parts of the old world, and the cell's episodes alone."""
    opens = recipe.modality().open
    members = {name: opens(data / name) for name in REGIONS}
    folder = (run.out / "trained") if run.fast else CACHE / "examples" / "world"
    whole = Plan.rounds, Plan.warmup_rounds, Plan.local_steps
    rounds, warmup, steps = (2, 1, 2) if run.fast else whole
    consensus = trained(
        folder / f"seed-{run.seed}" / "consensus",
        recipe,
        members,
        rounds,
        steps,
        run.seed,
        warmup_rounds=warmup,
        cross_node=True,
    )
    total = Schedule(rounds, steps, warmup).total_steps
    alone = {"own": opens(data / "own")}
    return consensus, trained(
        folder / f"seed-{run.seed}" / "solo", recipe, alone, 1, total, run.seed
    )


def region_of(run: Run, consensus: Consensus, solo: Path, data: Path) -> Place:
    """The cell's episodes, and the old world as the consensus's own benchmark."""
    world = WorldModel(encoder_of(consensus.recipe, consensus.vector))
    opens = consensus.recipe.modality().open

    def whole(name: str) -> EpisodeSource:
        return open_episodes(world, data / name)

    settings = {**BRIEF, "solo": solo, "horizon": HORIZON}
    return Place(
        "cell",
        consensus,
        Given(opens(data / "own"), rehearsal=opens(data / "general")),
        Region("the cell's dynamics", whole("own"), whole("test")),
        EvaluationSettings.model_validate(settings),
        [Foreseeing("the old world", whole("general"), whole("general-test"), HORIZON)],
    )


if __name__ == "__main__":
    run_example("sovereign_world", __doc__.split("\n")[0], run, COLUMNS)

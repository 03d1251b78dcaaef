"""A plant's sensor anomaly detector: what its machines have never done before.

Real inertial sensors at 50 Hz (seglearn's watch set), standing for a plant's. Seven subjects are
the federation's members; three others are the plant, which has nobody's labels: only two-second
windows of normal operation, the first half of what it has recorded. Of the later half every other
window is given one of three made-up faults, which nobody has before they happen: a mount that came
loose, a channel that stands still, a machine at half speed. Windows are scored by their distance to
the nearest normal ones in a model's features.

    python -m examples.sovereign_sensors         # or: make sovereign-sensors

Data: .cache/watch; without it the example says how to get them, once, with a network. A minute a
seed. Writes table.md, and the first seed's signed model with its report, under
runs/sovereign_sensors. *Solo* is a model of the plant's own windows alone, of as many steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.rocket import KERNELS, random_kernels, transform
from bench.sensors import anomaly_auroc, joined, labels_of, whole
from examples.sovereign import (
    BRIEF,
    CACHE,
    FEW_STEPS,
    Place,
    Rows,
    Run,
    part,
    require_data,
    run_example,
    taken,
    trained,
)
from gobelin.client.sovereign import Given
from gobelin.client.sovereign.assessment import Region
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.shared.data import MemorySource
from gobelin.shared.evaluation.benchmarks import Classification
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed

PLANT, TESTED = 3, 2  # subjects of the plant; of the members, those the exercises are told of
ROUNDS, LOCAL_STEPS = 6, 30
LOOSE = np.deg2rad(45.0)  # by which a loose mount has turned
STUCK = 4  # the channel that stands still
NORMAL, FAULT = "normal", "fault"
KEPT = "pre-train on own windows"
METHODS: dict[str, dict[str, object]] = {
    KEPT: {},
    "the same, by LoRA": {"moves": "lora"},
    "the same, held near the release": {"anchor": 0.01},
}
COLUMNS = ("auroc", "found", "over consensus", "over scratch", "over solo", "points lost")
HOW = "gobelin data prepare watch --split-by subject --out .cache/watch"


def run(run: Run) -> Rows:
    """One seed: every method, baselines without a model, and what it is compared with."""
    recipe = small(load_recipe("series_tiny")) if run.fast else load_recipe("series_tiny")
    place = region_of(run, recipe)
    steps = FEW_STEPS if run.fast else {"steps": 150}
    methods = {
        name: {"method": "pretrain", "pretrain": {**steps, **changes}}
        for name, changes in METHODS.items()
    }
    return {**without_model(place, run), **place.compare(run, methods, keep=KEPT)}


def without_model(place: Place, run: Run) -> Rows:
    """The same distances between raw windows, and between random convolutions of them."""
    known, asked = whole(place.region.train), whole(place.region.test)
    odd = labels_of(place.region.test) == 1
    rows = {"raw windows": {"auroc": anomaly_auroc(known.flatten(1), asked.flatten(1), odd)}}
    if not run.fast:
        kernels = random_kernels(known.shape[1], known.shape[2], KERNELS, run.seed)
        sides = transform(known, kernels), transform(asked, kernels)
        rows["random convolutions"] = {"auroc": anomaly_auroc(*sides, odd)}
    return rows


def region_of(run: Run, recipe: Recipe) -> Place:
    """The plant's windows, the consensus of the others, and what the consensus was for."""
    folder = require_data(CACHE / "watch", HOW)
    folders = sorted(p for p in folder.iterdir() if p.is_dir())
    order = np.random.default_rng(derive_seed(run.seed, "subjects")).permutation(len(folders))
    subjects = {folders[i].name: opened(recipe, folders[i]) for i in order}
    names = list(subjects)
    machines = [subjects[name] for name in names[:PLANT]]
    classes = int(labels_of(joined(machines)).max()) + 1
    members = {name: subjects[name] for name in names[PLANT:]}
    normal, test = divided(machines)
    base = (run.out / "trained") if run.fast else CACHE / "examples" / "sensors"
    base = base / f"seed-{run.seed}"
    rounds, steps = (1, 2) if run.fast else (ROUNDS, LOCAL_STEPS)
    consensus = trained(base / "consensus", recipe, members, rounds, steps, run.seed)
    alone = trained(base / "solo", recipe, {"plant": normal}, 1, rounds * steps, run.seed)
    settings = {**BRIEF, "solo": alone, "anomalous": (FAULT,)}
    told = [subjects[name] for name in names[PLANT:]]
    return Place(
        "plant",
        taken(consensus),
        Given(normal),
        Region("faults of the plant", normal, test),
        EvaluationSettings.model_validate(settings),
        [
            Classification(
                "exercises of the members",
                joined(told[TESTED:]),
                joined(told[:TESTED]),
                classes,
                seed=run.seed,
            )
        ],
    )


def divided(machines: list[MemorySource]) -> tuple[MemorySource, MemorySource]:
    """Normal windows, the first half of each machine's in each exercise, without labels; and the
    test: the other halves, which are later, every other window of them with a fault."""
    normal, later = [], []
    for machine in machines:
        labels = labels_of(machine).numpy()
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            normal.append(machine.read(own[: len(own) // 2]))
            later.append(machine.read(own[len(own) // 2 :]))
    fine, broken = torch.cat(later)[0::2], torch.cat(later)[1::2]
    odd = torch.cat([fault(broken[i :: len(FAULTS)]) for i, fault in enumerate(FAULTS)])
    kinds = torch.cat([torch.zeros(len(fine)), torch.ones(len(odd))]).long()
    test = MemorySource(torch.cat([fine, odd]), kinds, (NORMAL, FAULT))
    return MemorySource(torch.cat(normal)), test


def loose(windows: Tensor) -> Tensor:
    """Windows (N, T, 6) of a mount that has turned about its third axis by LOOSE."""
    cosine, sine = float(np.cos(LOOSE)), float(np.sin(LOOSE))
    turn = torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return torch.cat([part @ turn for part in torch.split(windows, 3, dim=2)], dim=2)


def stuck(windows: Tensor) -> Tensor:
    """Windows (N, T, 6) in which a channel stays at what it first said."""
    found = windows.clone()
    found[:, :, STUCK] = windows[:, :1, STUCK]
    return found


def slow(windows: Tensor) -> Tensor:
    """The middle half of windows (N, T, 6), in twice the time."""
    steps = windows.shape[1]
    return windows[:, torch.arange(steps) // 2 + steps // 4]


FAULTS = (loose, stuck, slow)


def opened(recipe: Recipe, folder: object) -> MemorySource:
    """A subject's windows, in memory."""
    source = recipe.modality().open(folder)  # type: ignore[arg-type]
    return part(source, np.arange(len(source)))


def small(recipe: Recipe) -> Recipe:
    """The recipe at a size for tests."""
    trunk = recipe.trunk.model_copy(update={"dim": 16, "depth": 1, "heads": 2})
    return recipe.model_copy(update={"trunk": trunk})


if __name__ == "__main__":
    run_example("sovereign_sensors", __doc__.split("\n")[0], run, COLUMNS)

"""A training step: stable-pretraining's LeJEPA against Gobelin's trainer, same ViT, views, batch.

    python -m bench.train_step --baseline-path FOLDER                   # CPU, the tiny recipe
    python -m bench.train_step --baseline-path FOLDER --device cuda --name train_step_gpu

where FOLDER holds the unpacked stable-pretraining (`pip download --no-deps`) and timm is installed.
Both start from the same weights, minimise the same formula (theirs: invariance + λ · SIGReg of the
views together) by AdamW with the same schedule, decay and clipping, and see the same views:
`step` trains on views that are there already, `with_views` makes them as well, each side by its own
augmentation of the same strengths; theirs an image at a time in `--loaders` processes. They take
turns in one process, and the median turn counts. Lightning, which would drive theirs, is left out.

Ours is what a node runs, `LocalTrainer`, with deterministic kernels; theirs is as fast as it comes.
`curve` is both losses over the first steps, in fp32 and under the slices that ours draws; `parity`
is the largest relative difference between the losses of CPU and device of any objective.

Writes bench/results/train_step.json, or as named.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.measure import write_result
from bench.parity import parity
from bench.sigreg import device_name, synchronise
from bench.stable_lejepa import PREFETCH, StableStep, augmentation, image_of, loader
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.evaluation.embed import require_device
from gobelin.shared.modality.modality import Views
from gobelin.shared.model import build_jepa
from gobelin.shared.objective.anti_collapse import AntiCollapse
from gobelin.shared.objective.lejepa import LeJepa
from gobelin.shared.objective.objective import Draw, LeJepaRecipe, LossParts
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

WEIGHT = 0.02  # λ, theirs by default
TOTAL_STEPS = 1000  # of the schedule
BATCHES = 4  # of ready views, in turn
CURVE_STEPS = 20
POOL = 4  # batches of images that views are made of
SIDES = ("stable_pretraining", "gobelin")
VIEWS = {  # beside the recipe's own: theirs needs a local view
    "tiny": {"global_views": 2, "local_views": 2, "local_size": 28, "local_scale": [0.05, 0.3]},
}


class TheirFormula(LeJepa):
    """invariance + λ · T of the projections of all views together."""

    def loss(self, z: Tensor, leading: int, draw: Draw) -> LossParts:
        z = z.float()
        prediction = (z[:leading].mean(dim=0) - z).square().mean()
        test = AntiCollapse.of(z.flatten(0, 1), self.recipe, draw)
        return test.parts(prediction + WEIGHT * test.weighed, prediction)


class ReadyViews:
    """Views that are there already, a batch after the other, whatever the images."""

    def __init__(self, batches: Sequence[Sequence[Tensor]], leading: int) -> None:
        self.batches, self.leading, self.turn = batches, leading, 0

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Views:
        """The next ready stacks."""
        self.turn += 1
        return Views(self.batches[(self.turn - 1) % len(self.batches)], self.leading)


@dataclass(frozen=True)
class Setting:
    """What both sides train, and how."""

    recipe: Recipe
    folder: Path
    device: torch.device
    precision: str
    compile: bool
    loaders: int

    @property
    def leading(self) -> int:
        """How many views are global."""
        return image_of(self.recipe).views.global_views

    def images(self) -> Tensor:
        """uint8 (POOL · B, C, S, S), smooth random patterns."""
        modality, batch = self.recipe.modality(), self.recipe.inner.batch_size
        found: Tensor = modality.made_up(POOL * batch, generator_of(0, "train step images"))
        return found

    def ready(self) -> list[list[Tensor]]:
        """BATCHES × stacks of views (V_i, B, C, S_i, S_i), on the device."""
        modality, batch = self.recipe.modality(), self.recipe.inner.batch_size
        parts = torch.split(self.images(), batch)
        return [
            list(modality.views(p.to(self.device), generator_of(0, "train step views", i)).stacks)
            for i, p in enumerate(islice(cycle(parts), BATCHES))
        ]

    def ours(self) -> LocalTrainer:
        """Our trainer on the images, minimising their formula."""
        parts = torch.split(self.images(), self.recipe.inner.batch_size)
        trainer = LocalTrainer(
            self.recipe,
            lambda step: parts[step % len(parts)],
            str(self.device),
            "bf16" if self.precision == "bf16" else "fp32",
            self.compile,
        )
        assert isinstance(self.recipe.objective, LeJepaRecipe)
        trainer.objective = TheirFormula(self.recipe.objective)  # type: ignore[assignment]
        return trainer

    def theirs(self) -> StableStep:
        """Their step from the same weights."""
        model = build_jepa(self.recipe, seed=0)
        options = (self.precision, self.compile, TOTAL_STEPS)
        return StableStep(self.folder, model, WEIGHT, self.device, *options)


def main() -> None:
    """Measure, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--baseline-path", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", help="tiny on the CPU, small elsewhere")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 but for the CPU")
    parser.add_argument("--no-compile", action="store_true", help="torch.compile neither side")
    parser.add_argument("--batch", type=int, help="images a step; the recipe's")
    parser.add_argument("--steps", type=int, default=20, help="a turn")
    parser.add_argument("--view-steps", type=int, default=6, help="a turn that makes views, too")
    parser.add_argument("--repetitions", type=int, default=5, help="turns")
    parser.add_argument("--loaders", type=int, default=0, help="processes of their augmentation")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    parser.add_argument("--profile", type=Path, help="also write both steps' operators here")
    parser.add_argument("--name", default="train_step", help="of the result file")
    options = parser.parse_args()
    if not (options.baseline_path / "stable_pretraining").is_dir():
        parser.error(f"--baseline-path {options.baseline_path}: holds no stable_pretraining")
    device = require_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32 on both sides
    on_cpu = device.type == "cpu"
    recipe = recipe_of(options.recipe or ("tiny" if on_cpu else "small"), options.batch)
    precision = options.precision or ("fp32" if on_cpu else "bf16")
    compile = not on_cpu and not options.no_compile
    setting = Setting(recipe, options.baseline_path, device, precision, compile, options.loaders)
    values: dict[str, Any] = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "recipe": recipe.name,
        "views": image_of(recipe).views.model_dump(mode="json"),
        "batch": recipe.inner.batch_size,
        "precision": precision,
        "compiled": compile,
        "steps": options.steps,
        "view_steps": options.view_steps,
        "repetitions": options.repetitions,
        "loaders": options.loaders,
        "goal": "speedup >= 1.2, curve and parity <= 1e-3",
    }
    values["curve"] = curve(setting)
    print("curve", values["curve"]["max_rel_error"], flush=True)
    for name, turns in sides(setting, options.steps, options.view_steps):
        values[name] = compare(turns, options.repetitions)
        print(name, values[name], flush=True)
        if options.profile:
            write_profile(options.profile / f"{name}.txt", turns, device)
    values["speedup"] = values["step"]["speedup"]
    values["parity"] = parity(device)
    print("parity", values["parity"])
    print(write_result(options.name, values))


def recipe_of(name: str, batch: int | None) -> Recipe:
    """The recipe with linear patches, as timm's ViT has, and with views that theirs can take."""
    table = load_recipe(name).model_dump(mode="json")
    (image,) = table["modalities"].values()
    image["stem"] = "patch"
    image["views"] |= VIEWS.get(name, {})
    views = image["views"]
    inner = table["inner"]
    inner["batch_size"] = batch or inner["batch_size"]
    # Theirs weighs T itself: our reference is as many samples as it tests.
    count = views["global_views"] + views["local_views"]
    table["objective"]["reference_batch"] = count * inner["batch_size"]
    return Recipe.model_validate(table)


Turn = Callable[[], float]  # images a second of some steps


def compare(turns: tuple[Turn, Turn], repetitions: int) -> dict[str, Any]:
    """Images a second of both, theirs and ours in turn."""
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    for repetition in range(-1, repetitions):
        for name, turn in zip(SIDES, turns, strict=True):
            rate = turn()
            if repetition >= 0:  # the first one warms up, and compiles
                rates[name].append(rate)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    best = {name: max(found) for name, found in rates.items()}
    return {
        "images_per_s": middle,
        "images_per_s_best": best,
        "speedup": middle["gobelin"] / middle["stable_pretraining"],
        "speedup_best": best["gobelin"] / best["stable_pretraining"],
    }


def write_profile(path: Path, turns: tuple[Turn, Turn], device: torch.device) -> None:
    """The dearest operators of a turn of theirs and one of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    tables = []
    for name, turn in zip(SIDES, turns, strict=True):
        with torch.profiler.profile(activities=activities) as profile:
            turn()
        table = profile.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=60)
        tables.append(f"{name}\n{table}")
    path.write_text("\n".join(tables))


def sides(setting: Setting, steps: int, view_steps: int) -> Iterator[tuple[str, tuple[Turn, Turn]]]:
    """Turns of both on ready views, and then on views that each makes."""
    trainer, theirs = setting.ours(), setting.theirs()
    with on_ready_views(setting, trainer) as views:
        yield (
            "step",
            (
                their_turn(setting, theirs, views, steps),
                our_turn(setting, trainer, steps),
            ),
        )
    yield (
        "with_views",
        (
            their_turn(
                setting, theirs, made_views(setting), view_steps, PREFETCH * setting.loaders
            ),
            our_turn(setting, trainer, view_steps),
        ),
    )


@contextmanager
def on_ready_views(setting: Setting, trainer: LocalTrainer) -> Iterator[Iterator[list[Tensor]]]:
    """Our trainer sees ready views for a while, and the same are there for theirs."""
    ready, modality = setting.ready(), trainer.encoder.modality
    modality.views = ReadyViews(ready, setting.leading)  # type: ignore[method-assign]
    try:
        yield cycle([[view for stack in stacks for view in stack] for stacks in ready])
    finally:
        del modality.views  # its class's own again


def made_views(setting: Setting) -> Iterator[list[Tensor]]:
    """Views by the augmentation of theirs, on the device."""
    made = loader(
        setting.images(),
        augmentation(setting.folder, setting.recipe),
        setting.recipe.inner.batch_size,
        setting.loaders,
        pin=setting.device.type != "cpu",
    )
    for views in made:
        yield [view.to(setting.device, non_blocking=True) for view in views]


def their_turn(
    setting: Setting,
    theirs: StableStep,
    supply: Iterator[list[Tensor]],
    steps: int,
    stored: int = 0,  # batches that may have been made while the other side had its turn
) -> Turn:
    """Some steps of theirs; the loss is not looked at."""

    def turn() -> float:
        times = []
        for _ in range(stored):
            next(supply)
        for step in range(steps):
            theirs(step, next(supply), setting.leading)
            if step in (0, steps - 1):
                synchronise(setting.device)
                times.append(time.perf_counter())
        return setting.recipe.inner.batch_size * (steps - 1) / (times[1] - times[0])

    return turn


def our_turn(setting: Setting, trainer: LocalTrainer, steps: int) -> Turn:
    """As many of ours, from the first on again; weights and inner optimizer go on, as theirs do."""
    local = LocalSteps(0, steps, TOTAL_STEPS, seed=0, node_seed=1)

    def turn() -> float:
        times: list[float] = []
        base = ParameterVector.of(trainer.model)
        trainer.train(base, local, lambda report: times.append(time.perf_counter()))
        return setting.recipe.inner.batch_size * (steps - 1) / (times[-1] - times[0])

    return turn


def curve(setting: Setting) -> dict[str, Any]:
    """Both losses over the first steps, fp32, not compiled, all views of full size."""
    plain = Setting(whole(setting.recipe), setting.folder, setting.device, "fp32", False, 0)
    trainer, theirs = plain.ours(), plain.theirs()
    losses: list[float] = []
    base = ParameterVector.of(build_jepa(plain.recipe, seed=0))
    local = LocalSteps(0, CURVE_STEPS, TOTAL_STEPS, seed=0, node_seed=1)
    theirs.share_slices(local.seed)
    with on_ready_views(plain, trainer) as views:
        trainer.train(base, local, lambda report: losses.append(report.loss))
        others = [float(theirs(step, next(views), plain.leading)) for step in range(CURVE_STEPS)]
    apart = [abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True)]
    return {
        "gobelin": losses,
        "stable_pretraining": others,
        "max_rel_error": max(apart),
        "parameters": {
            "gobelin": trainer.schema.size,
            "stable_pretraining": sum(p.numel() for p in theirs.trained),
        },
    }


def whole(recipe: Recipe) -> Recipe:
    """The recipe with few views, all of full size: timm resamples positions for smaller ones,
    and ours are made for every size, so that losses would differ."""
    table = recipe.model_dump(mode="json")
    (image,) = table["modalities"].values()
    image["views"] |= {"global_views": 2, "local_views": 1, "local_size": image["image_size"]}
    table["inner"]["batch_size"] = min(64, table["inner"]["batch_size"])
    table["objective"]["reference_batch"] = 3 * table["inner"]["batch_size"]
    return Recipe.model_validate(table)


if __name__ == "__main__":
    main()

"""How the recipe `tiny_long` was chosen: one thing changed at a time, judged on training images.

10,000 of Fashion-MNIST's 60,000 training images are held out, the rest train the model and the
probes; test images are never looked at. Every variant takes about the processor time of 600 steps
of `tiny`: what is dearer takes fewer steps, what is cheaper more.

Writes bench/results/image_recipe.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import run_all, spread, write_result
from bench.premium_images import read
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.data.fashion_mnist import CLASS_NAMES, TRAIN, fetch_fashion_mnist
from gobelin.shared.evaluation.embed import draw, embed
from gobelin.shared.evaluation.probes import few_shot_draws, knn, linear_probe
from gobelin.shared.health import effective_rank
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

SHUFFLE, HELD_OUT = 777, 10_000  # the seed of the split, and images nothing is fitted on
LABELS, JUDGED = 10_000, 5_000  # of the probes; held-out images that tokens and kNN are asked of
DRAWS = 20  # of ten labels a class
JITTER = {"jitter": 1.0, "brightness": 0.6, "contrast": 0.6}


def views(**how: Any) -> dict[str, Any]:
    """A change of the image's views."""
    return {"modalities": {"image": {"views": how}}}


VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {  # name → steps, what is changed of `tiny`
    "random": (0, {}),
    "tiny": (600, {}),
    "no jitter": (600, views(jitter=0.0)),
    "jitter of every image, 0.6": (600, views(**JITTER)),
    "jitter of every image, 0.9": (600, views(jitter=1.0, brightness=0.9, contrast=0.9)),
    "solarize 0.2": (600, views(solarize=0.2)),
    "solarize 0.5": (600, views(solarize=0.5)),
    "solarize 0.2 and jitter 0.6": (600, views(solarize=0.2, **JITTER)),
    "no flip": (600, views(flip=0.0)),
    "two local views of 14 pixels beside": (
        480,
        views(local_views=2, local_size=14, local_scale=[0.08, 0.4]),
    ),
    "jitter 0.6, batches of 32": (1200, {"inner": {"batch_size": 32}, **views(**JITTER)}),
    "jitter 0.6, one block": (830, {"trunk": {"depth": 1}, **views(**JITTER)}),
    "tiny, longer": (4000, {}),
}


@dataclass(frozen=True)
class Job:
    """One variant of one seed."""

    images: Path
    variant: str
    seed: int


def run_job(job: Job) -> dict[str, float]:
    """Train on what is not held out: accuracies on the rest in percent, processor seconds."""
    steps, changed = VARIANTS[job.variant]
    recipe = Recipe.model_validate(merged(load_recipe("tiny").model_dump(mode="json"), changed))
    train, held = halves(job.images)
    vector = ParameterVector.of(build_jepa(recipe, derive_seed(job.seed, "trial")))
    started = time.process_time()
    if steps:
        stream = BatchStream(train, recipe.inner.batch_size, derive_seed(job.seed, "batches"))
        local = LocalSteps(0, steps, steps, job.seed, derive_seed(job.seed, "node"))
        vector, _ = LocalTrainer(recipe, stream.batch).train(vector, local)
    seconds = time.process_time() - started
    encoder = encoder_of(recipe, vector)
    known = embed(encoder, train, draw(train, LABELS, 0, "probe labels"))
    new = embed(encoder, held)
    classes = len(CLASS_NAMES)
    pooled = (known.pooled, known.labels, new.pooled, new.labels)
    some = (new.pooled[:JUDGED], new.labels[:JUDGED])
    tokens = (known.tokens, known.labels, new.tokens[:JUDGED], new.labels[:JUDGED])
    few = few_shot_draws(*pooled, classes, shots=10, draws=DRAWS)
    return {
        "tokens": linear_probe(*tokens, classes)[0],
        "pooled": linear_probe(*pooled, classes)[0],
        "knn": knn(known.pooled, known.labels, *some, classes),
        "few_shot": sum(few) / len(few),
        "effective_rank": effective_rank(new.pooled),
        "seconds": seconds,
    }


def merged(table: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A table with some of its keys changed, at any depth."""
    for key, value in changed.items():
        deeper = isinstance(value, Mapping) and isinstance(table.get(key), dict)
        table[key] = merged(table[key], value) if deeper else value
    return table


def halves(images: Path) -> tuple[MemorySource, MemorySource]:
    """Training images to learn from, and those held out."""
    pixels, labels = read(images / TRAIN, 60_000, SHUFFLE)
    first = MemorySource(pixels[:-HELD_OUT], labels[:-HELD_OUT], CLASS_NAMES)
    return first, MemorySource(pixels[-HELD_OUT:], labels[-HELD_OUT:], CLASS_NAMES)


def main() -> None:
    """Run every variant and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    jobs = [Job(images, name, seed) for name in options.variants for seed in options.seeds]
    found = run_all(run_job, jobs, options.workers)
    values: dict[str, Any] = {"seeds": options.seeds, "variants": options.variants}
    for name in options.variants:
        runs = [found[Job(images, name, seed)] for seed in options.seeds]
        values[f"{name}.steps"] = VARIANTS[name][0]
        values |= {f"{name}.{key}": spread([run[key] for run in runs]) for key in runs[0]}
    print(write_result("image_recipe", values))


if __name__ == "__main__":
    main()

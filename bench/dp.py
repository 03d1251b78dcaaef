"""What privacy costs: ε against probe accuracy, of one node's local steps on Fashion-MNIST.

DP-SGD by one node that has all training images, at one clip norm and several noises; beside them
the same steps clipped and not noised, random weights, and pixels. ε is of the whole training, by
PLD, for one image added or removed. Nothing is tuned for any of them.

Writes bench/results/dp.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import run_all, spread, write_result
from gobelin.client.home import PrivacySettings
from gobelin.client.privacy.accounting import epsilon
from gobelin.client.privacy.noise import Secret
from gobelin.client.privacy.training import PrivateTrainer
from gobelin.client.trainer import LocalSteps
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.evaluation.evaluate import evaluate_raw
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import ParameterVector

OBJECTIVES: dict[str, dict[str, Any]] = {
    "byol": {"kind": "byol", "hidden": 128},
    "masked": {
        **{"kind": "masked", "teacher": True, "weight": 0},
        "predictor": {"dim": 32, "depth": 1, "heads": 2},
    },
}
PIXELS, RANDOM = "pixels", "random"
NO_NOISE = 1e-9  # of which no ε is told
PROBES = ("tokens", "pooled", "knn", "few_shot", "effective_rank")


@dataclass(frozen=True)
class Job:
    """One training of one seed, or a baseline."""

    images: Path
    model: str  # an objective or a baseline
    noise: float  # σ
    steps: int
    batch: int
    labels: int  # that probes are fitted on
    seed: int


def run_job(job: Job) -> dict[str, float]:
    """Train and probe: accuracies in percent, the effective rank, ε (NaN for none), seconds."""
    recipe = recipe_of(job.model)
    modality = recipe.modality()
    train, test = modality.open(job.images / TRAIN), modality.open(job.images / TEST)
    started, spent = time.process_time(), float("nan")
    if job.model == PIXELS:
        found = evaluate_raw(modality, train, test, label_budget=job.labels, seed=job.seed)
    else:
        vector = ParameterVector.of(build_jepa(recipe, job.seed))
        if job.model != RANDOM:
            told = PrivacySettings(noise_multiplier=job.noise, batch_size=job.batch)
            secret = Secret(job.seed.to_bytes(32, "big"))
            trainer = PrivateTrainer(recipe, train, told, secret)
            vector, _ = trainer.train(vector, LocalSteps(0, job.steps, job.steps, job.seed, 0))
            if job.noise > NO_NOISE:
                spent = epsilon([trainer.spend(job.steps)], delta_of(len(train)))
        model = encoder_of(recipe, vector)
        found = evaluate_model(model, train, test, label_budget=job.labels, seed=job.seed)
    facts = asdict(found)
    figures = {name: facts[name] for name in PROBES if facts[name] is not None}
    return {**figures, "epsilon": spent, "cpu_seconds": time.process_time() - started}


def recipe_of(model: str) -> Recipe:
    """The tiny recipe, narrower, with LayerNorm, and an objective that is a sum over samples."""
    facts = load_recipe("tiny").model_dump(mode="json")
    facts["objective"] = OBJECTIVES.get(model, OBJECTIVES["byol"])
    facts["trunk"]["dim"] = 64
    facts["projector"] = {"hidden": 128, "out": 32, "norm": "layer"}
    facts["inner"] |= {"lr": 1e-3, "weight_decay": 0.0}
    return Recipe.model_validate(facts)


def delta_of(samples: int) -> float:
    """A tenth of a sample."""
    return 0.1 / samples


def main() -> None:
    """Run all jobs and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="the four IDX files; else they are fetched")
    parser.add_argument("--objectives", nargs="+", default=["byol"], choices=list(OBJECTIVES))
    parser.add_argument("--noises", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--labels", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    rows = [(PIXELS, 0.0), (RANDOM, 0.0)]
    rows += [(name, noise) for name in options.objectives for noise in [NO_NOISE, *options.noises]]
    jobs = {
        row: [
            Job(images, *row, options.steps, options.batch, options.labels, seed)
            for seed in options.seeds
        ]
        for row in rows
    }
    found = run_all(run_job, [job for each in jobs.values() for job in each], options.workers)
    values = {
        "recipe": "tiny, dim 64",
        "samples": 60_000,
        "delta": delta_of(60_000),
        "clip_norm": PrivacySettings(noise_multiplier=1.0).clip_norm,
        **{key: getattr(options, key) for key in ("steps", "batch", "labels", "seeds")},
        "rows": [point(*row, [found[job] for job in jobs[row]]) for row in rows],
    }
    print(write_result("dp", values))


def point(model: str, noise: float, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """One row over the seeds; ε is the same for all of them."""
    private = noise > NO_NOISE
    row: dict[str, Any] = {
        "model": model,
        "noise_multiplier": noise if private else 0.0,
        "epsilon": found[0]["epsilon"] if private else None,
    }
    for name in (*PROBES, "cpu_seconds"):
        if all(name in each for each in found):
            row[name] = spread([each[name] for each in found])
    return row


if __name__ == "__main__":
    main()

"""What one small net learns of Fashion-MNIST by each objective, at equal images seen.

The same net, batches, views, optimizer and schedule for every objective; nothing is tuned for one
but what its own table says here. Beside them pixels, random weights, and the net trained on labels.
The recipe's own settings were chosen on training images (see docs/results.md), with LeJEPA.

Writes bench/results/image_probe.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bench.measure import run_all, spread, write_result
from gobelin.client.inner_optimizer import learning_rate
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data import BatchStream, Source
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.evaluation.evaluate import evaluate_raw
from gobelin.shared.model import Encoder, build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed, generator_of
from gobelin.shared.vector import ParameterVector

RECIPE = "tiny_long"
PREDICTOR = {"dim": 64, "depth": 2, "heads": 4}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": {},  # the recipe's own
    "vicreg": {"kind": "vicreg"},
    "info_nce": {"kind": "info_nce"},
    "masked": {"kind": "masked", "predictor": PREDICTOR},
    "masked_teacher": {"kind": "masked", "predictor": PREDICTOR, "teacher": True, "weight": 0},
    "byol": {"kind": "byol"},
}
BASELINES = ("pixels", "random", "supervised")
SLOWEST_FIRST = (  # so that no long job begins when the others end
    "byol", "masked", "vicreg", "lejepa", "info_nce", "masked_teacher", "supervised", "random",
    "pixels",
)  # fmt: skip
PROBES = ("tokens", "pooled", "knn", "few_shot")


@dataclass(frozen=True)
class Job:
    """One model of one seed."""

    images: Path
    model: str
    steps: int
    labels: int  # that probes are fitted on
    seed: int
    recipe: str = RECIPE


def run_job(job: Job) -> dict[str, float]:
    """Train the model and probe it: accuracies in percent, processor seconds of training."""
    recipe = recipe_of(job.model, job.recipe)
    modality = recipe.modality()
    train, test = modality.open(job.images / TRAIN), modality.open(job.images / TEST)
    started = time.process_time()
    if job.model == "pixels":
        found = evaluate_raw(modality, train, test, label_budget=job.labels, seed=job.seed)
        seconds = 0.0
    else:
        model = trained(recipe, train, job)
        seconds = time.process_time() - started
        found = evaluate_model(model, train, test, label_budget=job.labels, seed=job.seed)
    facts = asdict(found)
    figures = {name: facts[name] for name in (*PROBES, "effective_rank") if facts[name] is not None}
    return {**figures, "seconds": seconds}


def recipe_of(model: str, name: str = RECIPE) -> Recipe:
    """A recipe with a model's objective."""
    recipe = load_recipe(name)
    table = OBJECTIVES.get(model)
    if not table:
        return recipe
    own = recipe.objective
    test = {"slices": own.slices, "reference_batch": own.reference_batch}
    return Recipe.model_validate({**recipe.model_dump(mode="json"), "objective": {**test, **table}})


def trained(recipe: Recipe, train: Source, job: Job) -> Encoder:
    """The model of a job after its steps."""
    base = build_jepa(recipe, seed=derive_seed(job.seed, "image probe"))
    stream = BatchStream(train, recipe.inner.batch_size, derive_seed(job.seed, "batches"))
    if job.model == "random":
        return base.encoder()
    if job.model == "supervised":
        return supervised(recipe, base.encoder(), train, job)
    local = LocalSteps(0, job.steps, job.steps, job.seed, derive_seed(job.seed, "node"))
    vector, _ = LocalTrainer(recipe, stream.batch).train(ParameterVector.of(base), local)
    return encoder_of(recipe, vector)


def supervised(recipe: Recipe, encoder: Encoder, train: Source, job: Job) -> Encoder:
    """Tokenizer and trunk under a linear classifier of pooled features, on one view an image."""
    assert train.labels is not None
    inner = recipe.inner
    head = nn.Linear(recipe.trunk.dim, int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    parameters = [*encoder.tokenizer.parameters(), *encoder.trunk.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": inner.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=inner.lr, betas=inner.betas, fused=True)
    random = generator_of(job.seed, "supervised order")
    order = torch.empty(0, dtype=torch.int64)
    for step in range(job.steps):
        if len(order) < inner.batch_size:
            order = torch.cat([order, torch.randperm(len(train), generator=random)])
        chosen, order = order[: inner.batch_size], order[inner.batch_size :]
        images = train.read(chosen.numpy())
        view = encoder.modality.views(images, random).stacks[0][0]
        loss = F.cross_entropy(head(encoder.features(view)), train.labels[chosen])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, job.steps, inner)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, inner.clip_norm)
        optimizer.step()
    return encoder


def result(found: Mapping[tuple[str, int], Mapping[str, float]], models: list[str]) -> Any:
    """Flat keys: each model's figures over its seeds, and LeJEPA's lead on seeds that all have."""
    values: dict[str, Any] = {}
    for model in models:
        runs = [run for (name, _), run in sorted(found.items()) if name == model]
        for name in runs[0]:
            values[f"{model}.{name}"] = spread([run[name] for run in runs])
    if "lejepa" not in models:
        return values
    values["accuracy"] = values["lejepa.tokens"]
    others = [model for model in models if model in OBJECTIVES and model != "lejepa"]
    compared = ("lejepa", *others)
    seeds = sorted({seed for _, seed in found if all((model, seed) in found for model in compared)})
    for probe in PROBES if others else ():
        leads = [
            found["lejepa", seed][probe] - max(found[model, seed][probe] for model in others)
            for seed in seeds
        ]
        values[f"lead.{probe}"] = spread(leads)
    return values


def main() -> None:
    """Run every model and seed."""
    everything = [*BASELINES, *OBJECTIVES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--of-others", type=int, nargs="+", help="seeds of all but LeJEPA")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--labels", type=int, default=20_000, help="that probes are fitted on")
    parser.add_argument("--models", nargs="+", default=everything, choices=everything)
    parser.add_argument("--workers", type=int, default=2, help="models trained at a time")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="image_probe", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    seeds_of = dict.fromkeys(options.models, options.of_others or options.seeds)
    if "lejepa" in seeds_of:
        seeds_of["lejepa"] = options.seeds
    jobs = [
        Job(images, model, options.steps, options.labels, seed, options.recipe)
        for model in sorted(options.models, key=SLOWEST_FIRST.index)
        for seed in seeds_of[model]
    ]
    runs = run_all(run_job, jobs, options.workers)
    found = {(job.model, job.seed): run for job, run in runs.items()}
    batch = load_recipe(options.recipe).inner.batch_size
    values = {
        "seeds": options.seeds,
        "seeds_of_others": options.of_others or options.seeds,
        "recipe": options.recipe,
        "steps": options.steps,
        "images_seen": options.steps * batch,
        "labels": options.labels,
        "goal": "LeJEPA ahead of every other self-supervised objective; "
        "token probe ≥ 89 %, 10-shot ≥ 75 %",
    }
    print(write_result(options.name, {**values, **result(found, options.models)}))


if __name__ == "__main__":
    main()

"""A node of several processes trains as one process with the whole batch would."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import GobelinError
from gobelin.shared.modality import Views
from gobelin.shared.modality.image import Image
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

LOCAL = LocalSteps(first_step=0, steps=4, total_steps=16, seed=1, node_seed=2)
RANKS, BATCH = 2, 16
SMALL = {"slices": 16, "reference_batch": 16}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": SMALL,
    "vicreg": SMALL,
    "info_nce": {**SMALL, "temperature": 0.5},
    "byol": {**SMALL, "hidden": 32},
    "next_latent": {**SMALL, "predictor": {"dim": 16, "depth": 1, "heads": 2}},
}


def recipe_of(kind: str, norm: str) -> Recipe:
    values = load_recipe("toy").model_dump(mode="json")
    values["projector"]["norm"] = norm
    values["objective"] = {"kind": kind, **OBJECTIVES[kind]}
    if kind == "next_latent":
        seen = {"kind": "vector", "channels": 3, "hidden": 16}
        robot = {"kind": "trajectory", "actions": 2, "observation": seen}
        values["modalities"] = {"robot": {**robot, "objective": values["objective"]}}
    return Recipe.model_validate(values)


def images(step: int) -> Tensor:
    coarse = torch.rand(BATCH, 1, 4, 4, generator=generator_of(0, "data", step))
    return (255 * torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")).byte()


def windows(step: int) -> Trajectories:
    random = generator_of(0, "data", step)
    observations = torch.randn(BATCH, 4, 3, generator=random)
    return Trajectories(observations, torch.randn(BATCH, 3, 2, generator=random))


def two_looks(self: Image, batch: Tensor, generator: torch.Generator) -> Views:
    """Views without randomness, which ranks would draw each for themselves."""
    prepared = self.prepare(batch)
    stack = torch.stack([prepared, 0.7 * prepared.flip(3) + 0.1])
    return Views([stack], leading=2)


def trained(kind: str, norm: str, steps: LocalSteps = LOCAL) -> tuple[Tensor, list[float]]:
    """The vector after local steps from one base, in fp64 as far as it goes, and figures."""
    recipe = recipe_of(kind, norm)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    batches: Callable[[int], Any] = windows if kind == "next_latent" else images
    found, report = LocalTrainer(recipe, batches).train(base, steps)
    figures = [report.loss, report.prediction, report.collapse, report.gradient_norm]
    return found.values - base.values, figures


def one_of(rank: int, port: int, kind: str, norm: str, answers: Any) -> None:
    """One process of a node."""
    torch.set_num_threads(1)
    Image.views = two_looks  # type: ignore[method-assign]
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    try:
        delta, figures = trained(kind, norm)
        answers.put((rank, delta.tolist(), figures))
    except GobelinError as error:
        answers.put((rank, str(error), []))
    finally:
        dist.destroy_process_group()


def by_ranks(kind: str, norm: str) -> list[tuple[int, Any, list[float]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=one_of, args=(rank, port, kind, norm, answers))
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=30)
    return found


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        ("lejepa", "layer"),
        ("lejepa", "batch"),
        ("vicreg", "batch"),
        ("info_nce", "layer"),
        ("byol", "batch"),
        ("next_latent", "layer"),
    ],
)
def test_ranks_end_with_the_vector_of_one_process(
    kind: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(Image, "views", two_looks)
    whole, figures = trained(kind, norm)
    ranks = by_ranks(kind, norm)
    assert ranks[0][1] == ranks[1][1]  # to the bit
    delta = torch.tensor(ranks[0][1])
    assert float((delta - whole).norm() / whole.norm()) < 2e-3
    assert ranks[0][2] == pytest.approx(figures, rel=1e-4)

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
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

LOCAL = LocalSteps(first_step=0, steps=4, total_steps=16, seed=1, node_seed=2)
RANKS, BATCH = 2, 16
# Their gradient is zero but for rounding, of which Adam makes full-size steps: a softmax does not
# see a shift of all keys, nor BatchNorm or VICReg one of all samples.
SHIFTS = ("query_key_value.bias", "trunk.norm.bias", "projector.layers.6.bias")
SMALL = {"slices": 16, "reference_batch": 16}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lejepa": SMALL,
    "vicreg": SMALL,
    "info_nce": {**SMALL, "temperature": 0.5},
    "byol": {**SMALL, "hidden": 32},
    "masked": {**SMALL, "teacher": True, "predictor": {"dim": 16, "depth": 1, "heads": 2}},
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


def trained(kind: str, norm: str) -> tuple[ParameterVector, list[float]]:
    """What local steps add to a base, and the figures of their report."""
    recipe = recipe_of(kind, norm)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    batches: Callable[[int], Any] = windows if kind == "next_latent" else images
    found, report = LocalTrainer(recipe, batches).train(base, LOCAL)
    figures = [report.loss, report.prediction, report.collapse, report.gradient_norm]
    return found - base, figures


def one_of(rank: int, port: int, kind: str, norm: str, answers: Any) -> None:
    """One process of a node."""
    torch.set_num_threads(1)
    Image.views = two_looks  # type: ignore[method-assign]
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    try:
        delta, figures = trained(kind, norm)
        answers.put((rank, delta.values.tolist(), figures))
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
    delta = ParameterVector(whole.schema, torch.tensor(ranks[0][1]))
    assert apart(delta, whole) < 1e-4
    assert ranks[0][2] == pytest.approx(figures, rel=1e-3)


def test_ranks_that_draw_masks_of_their_own_end_with_one_vector() -> None:
    first, second = by_ranks("masked", "batch")
    assert first[1] == second[1]
    assert first[2] == second[2]


def apart(one: ParameterVector, other: ParameterVector) -> float:
    """Their distance by the other's length, SHIFTS left out."""
    a, b = one.tensors(), other.tensors()
    compared = [name for name in a if not name.endswith(SHIFTS)]
    squares = sum(float((a[name] - b[name]).square().sum()) for name in compared)
    length = sum(float(b[name].square().sum()) for name in compared)
    return float((squares / length) ** 0.5)


def test_statistics_of_shares_alone_would_end_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison has the resolution to tell: ranks that do not meet inside the statistic."""
    torch.set_num_threads(1)
    monkeypatch.setattr(Image, "views", two_looks)
    whole, _ = trained("lejepa", "layer")
    monkeypatch.setattr(Ranks, "total", lambda self, c, s, samples: (c, s, c.new_tensor(samples)))
    delta = ParameterVector(whole.schema, torch.tensor(by_ranks("lejepa", "layer")[0][1]))
    assert apart(delta, whole) > 1e-3


def test_ranks_that_do_not_divide_a_batch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BATCH", 15)
    found = by_ranks("lejepa", "layer")
    assert all("a batch of 15" in message for _, message, _ in found)

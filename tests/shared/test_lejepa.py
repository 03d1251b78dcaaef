"""The LeJEPA loss against the paper's formula written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gobelin.shared.objective.lejepa import LeJepa
from gobelin.shared.objective.objective import Draw, LeJepaRecipe
from gobelin.shared.objective.sigreg import directions, sigreg

RECIPE = LeJepaRecipe(weight=0.1, slices=32, reference_batch=12)


def embeddings(views: int = 4, samples: int = 12, dim: int = 5) -> Tensor:
    return torch.randn(views, samples, dim, generator=torch.Generator().manual_seed(0))


def draw(seed: int = 0) -> Draw:
    return Draw(torch.Generator(), seed)


def by_loops(z: Tensor, global_views: int, seed: int) -> Tensor:
    """(1 − λ) inv + λ mean_v SIGReg, term by term."""
    views, samples, dim = z.shape
    inv = torch.zeros(())
    for n in range(samples):
        for d in range(dim):
            centre = sum((z[v, n, d] for v in range(global_views)), torch.zeros(())) / global_views
            for v in range(views):
                inv = inv + (centre - z[v, n, d]) ** 2 / (views * samples * dim)
    slices = directions(seed, dim, RECIPE.slices)
    test = torch.zeros(())
    for v in range(views):
        test = test + sigreg(z[v], slices, RECIPE.knots, RECIPE.t_max) / views
    return (1 - RECIPE.weight) * inv + RECIPE.weight * test


@pytest.mark.parametrize("global_views", [1, 2, 4])
def test_the_loss_and_its_gradient_are_those_of_the_loops(global_views: int) -> None:
    z = embeddings().requires_grad_()
    loss = LeJepa(RECIPE).loss(z, global_views, draw(3)).total
    reference = by_loops(z, global_views, seed=3)
    torch.testing.assert_close(loss, reference)
    ours, theirs = (torch.autograd.grad(value, z)[0] for value in (loss, reference))
    torch.testing.assert_close(ours, theirs)


def test_gradient_flows_through_the_centre() -> None:
    z = embeddings(views=2).requires_grad_()
    LeJepa(RECIPE.model_copy(update={"weight": 0.0})).loss(z, 1, draw()).total.backward()
    assert z.grad is not None
    assert z.grad[0].abs().sum() > 0


def test_the_weight_means_the_same_at_any_batch_size() -> None:
    z, objective = embeddings(), LeJepa(RECIPE)
    once, twice = objective.loss(z, 2, draw()), objective.loss(torch.cat([z, z], dim=1), 2, draw())
    torch.testing.assert_close(once.total, twice.total)


def test_equal_views_leave_only_the_anti_collapse_term() -> None:
    z = embeddings(views=1).expand(3, -1, -1)
    parts = LeJepa(RECIPE).loss(z, 2, draw())
    assert parts.prediction < 1e-12
    torch.testing.assert_close(parts.total, RECIPE.weight * parts.anti_collapse)


def test_bf16_embeddings_are_judged_in_fp32() -> None:
    parts = LeJepa(RECIPE).loss(embeddings().bfloat16(), 2, draw())
    assert {v.dtype for v in vars(parts).values()} == {torch.float32}

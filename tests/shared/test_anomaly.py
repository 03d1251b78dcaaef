"""Anomaly scores, AUROC and the t-test have their known values."""

from __future__ import annotations

import math

import pytest
import torch

from gobelin.shared.errors import DataError
from gobelin.shared.evaluation.anomaly import Mahalanobis, NearestNeighbours, auroc
from gobelin.shared.evaluation.t_test import incomplete_beta, paired_t_test, survival


def normal(samples: int = 2000, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 3, generator=random) * torch.tensor([1.0, 5.0, 0.2]) + 7


def test_mahalanobis_counts_in_standard_deviations_of_each_direction() -> None:
    found = Mahalanobis.of(normal(20_000), shrinkage=0.0)
    away = torch.tensor([[3.0, 0, 0], [0, 15, 0], [0, 0, 0.6], [0, 0, 0]]) + 7
    assert found.score(away).tolist() == pytest.approx([3, 3, 3, 0], abs=0.1)


def test_whitened_normal_samples_spread_alike_in_all_directions() -> None:
    turned = normal(20_000) @ torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    white = Mahalanobis.of(turned, shrinkage=0.0).whiten(turned)
    assert torch.allclose(torch.cov(white.T), torch.eye(3, dtype=white.dtype), atol=1e-6)
    assert torch.allclose(white.mean(dim=0), torch.zeros(3, dtype=white.dtype), atol=1e-6)


def test_the_nearest_neighbours_of_a_line_are_known() -> None:
    line = torch.arange(10.0)[:, None]
    scores = NearestNeighbours(line, k=2).score(torch.tensor([[4.0], [12.0]]))
    assert scores.tolist() == pytest.approx([0.5, 3.5])  # 0 and 1; 3 and 4


@pytest.mark.parametrize("kind", [Mahalanobis.of, lambda x: NearestNeighbours(x, k=5)])
def test_what_is_not_normal_scores_higher(kind) -> None:
    odd = normal(200, seed=1) + torch.tensor([0.0, 0.0, 2.0])  # ten standard deviations
    scores = kind(normal()).score(torch.cat([normal(200, seed=2), odd]))
    assert auroc(scores, torch.arange(400) >= 200) > 0.97


def test_a_dead_dimension_does_not_make_distances_infinite() -> None:
    dead = torch.cat([normal(), torch.zeros(2000, 1)], dim=1)
    assert bool(Mahalanobis.of(dead).score(dead).isfinite().all())


def test_unusable_embeddings_are_refused() -> None:
    with pytest.raises(DataError, match="are equal"):
        Mahalanobis.of(torch.ones(10, 3))
    with pytest.raises(DataError, match="finite"):
        Mahalanobis.of(torch.full((10, 3), torch.nan))
    with pytest.raises(DataError, match=r"\(M, 3\)"):
        Mahalanobis.of(normal()).score(torch.zeros(2, 4))
    with pytest.raises(DataError, match="neighbours"):
        NearestNeighbours(normal(4), k=5)


def test_auroc_of_known_orders() -> None:
    truth = torch.tensor([False, False, True, True])
    assert auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), truth) == 0.75  # scikit-learn's example
    assert auroc(torch.tensor([1.0, 2, 3, 4]), truth) == 1
    assert auroc(torch.tensor([4.0, 3, 2, 1]), truth) == 0
    assert auroc(torch.zeros(4), truth) == 0.5
    assert auroc(torch.tensor([0.0, 1, 1, 2]), truth) == 0.875  # a tie counts half


def test_auroc_needs_both_kinds_and_no_nan() -> None:
    with pytest.raises(DataError, match="0 of 2"):
        auroc(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(DataError, match="NaN"):
        auroc(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))


@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 0.3, 1.0, 2.5, 12.0])
def test_students_tail_has_its_closed_forms(t: float) -> None:
    assert survival(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, rel=1e-12)
    assert survival(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), rel=1e-9)
    s = t / math.sqrt(4 + t * t)
    assert survival(t, 4) == pytest.approx(0.5 - 0.75 * s * (1 - s * s / 3), rel=1e-7)


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (1.812, 10, 0.05),
        (2.764, 10, 0.01),
        (1.699, 29, 0.05),
        (2.462, 29, 0.01),
        (3.174, 99, 0.001),
    ],
)
def test_students_tail_agrees_with_the_printed_table(t: float, freedom: int, p: float) -> None:
    assert survival(t, freedom) == pytest.approx(p, rel=0.003)


def test_students_tail_becomes_the_normal_one() -> None:
    assert survival(1.959964, 10**7) == pytest.approx(0.025, rel=1e-5)


def test_the_incomplete_beta_function_has_its_closed_forms() -> None:
    for x in (0.0, 1e-6, 0.2, 0.5, 0.9, 1.0):
        assert incomplete_beta(x, 1, 3) == pytest.approx(1 - (1 - x) ** 3, abs=1e-13)
        assert incomplete_beta(x, 4, 1) == pytest.approx(x**4, abs=1e-13)


def test_a_paired_t_test_of_known_differences() -> None:
    found = paired_t_test([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.t == pytest.approx(3 / math.sqrt(2.5 / 5))
    assert found.p == pytest.approx(survival(found.t, 4))
    assert found.p == pytest.approx(0.0066177, rel=1e-4)
    assert paired_t_test([-1.0, -2, -3, -4, -5]).p == pytest.approx(1 - found.p)


def test_a_paired_t_test_at_its_edges() -> None:
    assert paired_t_test([0.0, 0.0]).p == 0.5
    assert paired_t_test([1.0, 1.0]).p == 0
    assert paired_t_test([-1.0, -1.0]).p == 1
    with pytest.raises(DataError, match="two finite pairs"):
        paired_t_test([1.0])
    with pytest.raises(DataError, match="two finite pairs"):
        paired_t_test([1.0, math.nan])

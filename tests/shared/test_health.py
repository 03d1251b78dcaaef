"""Health figures have their known values where those are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gobelin.shared.errors import ShapeError
from gobelin.shared.health import (
    deviations,
    effective_rank,
    frame_rotation,
    lidar,
    measure_health,
    rankme,
    spread,
    straightness,
)
from gobelin.shared.objective.objective import LeJepaRecipe


def gaussian(samples: int = 4000, dim: int = 16) -> Tensor:
    return torch.randn(samples, dim, generator=torch.Generator().manual_seed(0))


def test_a_white_gaussian_has_full_rank() -> None:
    assert effective_rank(gaussian()) == pytest.approx(16, rel=0.01)
    assert rankme(gaussian()) == pytest.approx(16, rel=0.01)


def test_a_line_has_rank_one() -> None:
    line = gaussian(dim=1) @ torch.ones(1, 16)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)


def test_one_point_has_rank_zero_even_far_from_the_origin() -> None:
    assert effective_rank(torch.full((100, 16), 0.1)) == 0
    assert rankme(torch.zeros(100, 16)) == 0


def test_ranks_ignore_offset_scale_and_rotation() -> None:
    skewed = gaussian() * torch.linspace(0.1, 2, 16)
    rotation = torch.linalg.qr(gaussian(16)).Q
    moved = 3 * skewed @ rotation + 5
    assert effective_rank(moved) == pytest.approx(effective_rank(skewed), rel=1e-4)
    assert rankme(moved) == pytest.approx(rankme(skewed), rel=1e-4)


def test_the_effective_rank_is_the_stricter_one() -> None:
    skewed = gaussian() * torch.linspace(0.01, 2, 16)
    assert effective_rank(skewed) < rankme(skewed) < 16


def test_fewer_samples_than_dimensions_give_the_rank_of_the_samples() -> None:
    wide = gaussian(samples=8, dim=64)
    assert effective_rank(wide) <= 7
    both_ways = torch.linalg.svdvals((wide - wide.mean(dim=0)).double()).square()
    shares = both_ways[both_ways > 1e-9] / both_ways.sum()
    assert effective_rank(wide) == pytest.approx(float((-shares * shares.log()).sum().exp()))


def test_deviations_are_per_dimension() -> None:
    scaled = gaussian(dim=3) * torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(deviations(scaled), torch.tensor([0.0, 1.0, 2.0]), rtol=0.05, atol=0)


def test_health_tells_a_gaussian_from_a_collapsed_model() -> None:
    objective = LeJepaRecipe(slices=64)
    alive = measure_health(gaussian(256), gaussian(256, 8), objective, seed=0)
    dead = measure_health(torch.zeros(256, 16), torch.zeros(256, 8), objective, seed=0)
    assert alive.collapse < 0.02
    assert dead.collapse == pytest.approx(0.402, rel=0.01)
    assert (alive.dim, alive.samples) == (16, 256)
    assert dead.effective_rank == dead.deviation_mean == dead.deviation_min == 0


# ---------------------------------------------------------------- frame


def turned(features: Tensor, degrees: float) -> Tensor:
    """The features turned by one angle in every plane of two neighbouring dimensions."""
    angle = math.radians(degrees)
    plane = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
    )
    return features @ torch.block_diag(*[plane] * (features.shape[1] // 2))


@pytest.mark.parametrize("samples", [5, 16, 17, 400])  # fewer images than dimensions, and more
@pytest.mark.parametrize("degrees", [0.0, 12.0, 90.0, 150.0])
def test_a_turned_frame_is_found_with_any_number_of_images(samples: int, degrees: float) -> None:
    features = gaussian(samples) * torch.linspace(0.1, 2, 16)
    found = frame_rotation(3 * turned(features, degrees) + 7, features)
    assert found == pytest.approx(degrees, abs=0.05)


def test_a_mirrored_frame_is_half_a_turn_away() -> None:
    assert frame_rotation(-gaussian(), gaussian()) == pytest.approx(180)


def test_unrelated_models_are_about_a_quarter_turn_apart() -> None:
    other = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1))
    assert frame_rotation(other, gaussian()) == pytest.approx(90, abs=30)


def test_what_has_no_frame_is_not_turned() -> None:
    assert frame_rotation(torch.ones(9, 4), gaussian(9, 4)) == 0
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert frame_rotation(apart, apart.roll(2, dims=0)) == 90


# ---------------------------------------------------------------- spread, LiDAR, straightness


def test_spread_is_the_share_that_is_no_common_offset() -> None:
    assert spread(gaussian() + 3) == pytest.approx(0.1, rel=0.02)
    assert spread(torch.full((9, 4), 0.1)) == 0


def views_of(samples: Tensor, noise: Tensor, views: int = 200) -> Tensor:
    """Views (V, N, D) of samples (N, D) that differ by noise of deviations (D,)."""
    random = torch.Generator().manual_seed(5)
    return samples + noise * torch.randn(views, *samples.shape, generator=random)


def test_lidar_is_the_papers() -> None:
    views = views_of(gaussian(30, 5) * torch.linspace(0.2, 2, 5), torch.linspace(0.1, 1, 5), 7)
    z = views.double().numpy()
    means = z.mean(axis=0)
    between = np.cov(means.T, bias=True)
    within = np.mean([np.cov(z[:, n].T, bias=True) for n in range(30)], axis=0) + 1e-4 * np.eye(5)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    shares = np.linalg.eigvalsh(root @ between @ root)
    shares = shares / shares.sum()
    assert lidar(views) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_lidar_counts_dimensions_that_tell_samples_apart() -> None:
    told = torch.tensor([1.0] * 4 + [0.0] * 4)  # four dimensions are nothing but noise
    found = lidar(views_of(gaussian(500, 8) * told, torch.full((8,), 0.01)))
    assert found == pytest.approx(4, rel=0.02)
    assert effective_rank(views_of(gaussian(500, 8) * told, told + 0.5)[0]) > 5
    assert lidar(torch.ones(2, 10, 4)) == 0


def test_lidar_needs_views() -> None:
    with pytest.raises(ShapeError):
        lidar(gaussian().unsqueeze(0))


def test_straight_paths_have_straightness_one_and_random_walks_none() -> None:
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, -2.0, 0.5]) + 4
    assert straightness(line.expand(3, -1, -1)) == pytest.approx(1)
    there_and_back = torch.tensor([[[0.0], [1.0], [0.0], [1.0]]])
    assert straightness(there_and_back) == pytest.approx(-1)
    walk = gaussian(4000, 16).view(40, 100, 16).cumsum(dim=1)
    assert straightness(walk) == pytest.approx(0, abs=0.02)
    right_angle = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]]])
    assert straightness(right_angle) == pytest.approx(0)


def test_straightness_needs_three_points() -> None:
    with pytest.raises(ShapeError):
        straightness(gaussian(4, 4).view(2, 2, 4))

"""SIGReg against its plain form, its closed form, and its known null and collapse values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gobelin.shared.objective.sigreg import collapse_score, directions, quadrature, sigreg

NULL = {5.0: 1.0594, 3.0: 1.053}  # expectation for z ~ N(0, I), by t_max
COLLAPSE = {5.0: 0.4089, 3.0: 0.402}  # T / N for z = 0, by t_max


def naive(z: Tensor, slices: Tensor, knots: int, t_max: float) -> Tensor:
    """arXiv:2511.08544, Alg. 1 as written: every cosine and sine, O(N M K) memory."""
    t, phi, weights = quadrature(knots, t_max, z)
    angles = (z @ slices)[..., None] * t  # (..., N, M, K)
    real, imaginary = angles.cos().mean(dim=-3) - phi, angles.sin().mean(dim=-3)
    return z.shape[-2] * ((real.square() + imaginary.square()) @ weights).mean()


def on_the_whole_line(x: Tensor) -> Tensor:
    """Closed form of T / N of x (N,) with the integral over all t instead of knots."""
    pairs = torch.exp(-(x[:, None] - x).square() / 2).mean()
    singles = torch.exp(-x.square() / 4).mean()
    tail = math.sqrt(2 * math.pi / 3)
    return math.sqrt(2 * math.pi) * pairs - 2 * math.sqrt(math.pi) * singles + tail


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(statistic: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(statistic, z)[0]


@pytest.mark.parametrize(("shape", "knots", "t_max"), [((64, 8), 17, 3), ((2, 32, 16), 9, 5)])
def test_the_recurrence_equals_the_plain_form(
    shape: tuple[int, ...], knots: int, t_max: float
) -> None:
    z = (1.5 * sample(*shape)).requires_grad_()
    slices = directions(1, shape[-1], 32)
    fast, plain = sigreg(z, slices, knots, t_max), naive(z, slices, knots, t_max)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)
    ours, theirs = gradient(fast, z), gradient(plain, z)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_the_gradient_is_that_of_the_value() -> None:
    z = sample(5, 3).double().requires_grad_()
    slices = directions(1, 3, 4).double()
    assert torch.autograd.gradcheck(lambda z: sigreg(z, slices, 17, 5.0), z)


def test_17_knots_to_5_reach_the_integral_over_the_whole_line() -> None:
    x = 1.3 * sample(200, 1).double() + 0.4
    knotted = sigreg(x, torch.ones(1, 1).double(), 17, 5.0) / 200
    torch.testing.assert_close(knotted, on_the_whole_line(x[:, 0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("t_max", [5.0, 3.0])
@pytest.mark.parametrize(("samples", "dim"), [(32, 4), (128, 64)])
def test_a_gaussian_scores_the_known_floor(t_max: float, samples: int, dim: int) -> None:
    draws = [
        sigreg(sample(samples, dim, seed=s), directions(s, dim, 256), 17, t_max) for s in range(60)
    ]
    scores = torch.stack(draws)
    sampling_error = scores.std() / math.sqrt(len(scores))
    assert abs(scores.mean() - NULL[t_max]) < 4 * sampling_error


@pytest.mark.parametrize("t_max", [5.0, 3.0])
@pytest.mark.parametrize("samples", [16, 256])
def test_one_point_scores_the_known_collapse_value(t_max: float, samples: int) -> None:
    statistic = sigreg(torch.zeros(samples, 8), directions(0, 8, 32), 17, t_max)
    assert collapse_score(statistic, samples).item() == pytest.approx(COLLAPSE[t_max], rel=2e-3)


def test_the_statistic_carries_the_factor_n() -> None:
    z, slices = sample(64, 8) * 2, directions(0, 8, 64)
    once, twice = sigreg(z, slices), sigreg(torch.cat([z, z]), slices)
    torch.testing.assert_close(twice, 2 * once)


def test_views_are_tested_one_by_one_and_averaged() -> None:
    z, slices = sample(3, 32, 8), directions(0, 8, 64)
    one_by_one = torch.stack([sigreg(view, slices) for view in z]).mean()
    torch.testing.assert_close(sigreg(z, slices), one_by_one)


def test_turning_embeddings_and_slices_together_changes_nothing() -> None:
    z, slices = sample(64, 8).double(), directions(0, 8, 64).double()
    rotation = torch.linalg.qr(sample(8, 8, seed=1).double()).Q
    torch.testing.assert_close(sigreg(z @ rotation, rotation.T @ slices), sigreg(z, slices))


def test_directions_are_unit_vectors_fixed_by_the_seed() -> None:
    slices = directions(7, 16, 100)
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(100))
    assert torch.equal(slices, directions(7, 16, 100))
    assert not torch.equal(slices, directions(8, 16, 100))


def test_the_maths_stays_fp32_under_autocast() -> None:
    z, slices = sample(64, 8), directions(0, 8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = sigreg(z, slices)
    assert torch.equal(under, sigreg(z, slices))

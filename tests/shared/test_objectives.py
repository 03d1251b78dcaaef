"""VICReg, InfoNCE, latent errors and the EMA teacher against numpy, and against their traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gobelin.shared.errors import ConfigError, ShapeError
from gobelin.shared.objective.info_nce import nt_xent
from gobelin.shared.objective.latent import gather_tokens, latent_error, teacher_error
from gobelin.shared.objective.teacher import teacher_of, update_teacher
from gobelin.shared.objective.vicreg import VicReg, covariance, variance


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


# ---------------------------------------------------------------- VICReg


@pytest.mark.parametrize("views", [2, 3])
def test_vicreg_is_the_papers_with_the_mean_over_off_diagonals(views: int) -> None:
    z = (0.7 * sample(views, 12, 5)).numpy()
    terms = VicReg.of(torch.from_numpy(z))
    pairs = [((z[i] - z[j]) ** 2).mean() for i in range(views) for j in range(i)]
    deviation = np.sqrt(z.var(axis=1, ddof=1) + 1e-4)
    hinge = np.maximum(0, 1 - deviation).mean(axis=1).sum()
    off = ~np.eye(5, dtype=bool)
    spread = sum((np.cov(view.T)[off] ** 2).mean() for view in z)
    assert terms.invariance.item() == pytest.approx(np.mean(pairs), rel=1e-12)
    assert terms.variance.item() == pytest.approx(hinge, rel=1e-12)
    assert terms.covariance.item() == pytest.approx(spread, rel=1e-12)
    expected = np.mean(pairs) + 25 * hinge + 3 * spread
    assert terms.total(25, 3).item() == pytest.approx(expected, rel=1e-12)


def test_the_covariance_term_means_the_same_at_any_width() -> None:
    narrow = sample(200, 1).expand(-1, 4)
    wide = sample(200, 1).expand(-1, 64)
    torch.testing.assert_close(covariance(wide), covariance(narrow))


def test_a_collapsed_dimension_has_a_finite_slope_and_the_known_value() -> None:
    z = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
    loss = variance(z)
    assert loss.item() == pytest.approx(0.99)  # 1 − √1e-4
    assert bool(torch.isfinite(gradients(loss, z)[0]).all())


def test_all_views_of_vicreg_learn() -> None:
    z = sample(2, 8, 4).requires_grad_()
    (slope,) = gradients(VicReg.of(z).invariance, z)
    torch.testing.assert_close(slope[0], -slope[1])
    assert slope.norm() > 0


# ---------------------------------------------------------------- InfoNCE


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return unit_a @ unit_b.T


def test_nt_xent_leaves_out_the_anchor_and_nothing_else() -> None:
    z = sample(2, 6, 4).numpy()
    both = z.reshape(12, 4)
    logits = cosines(both, both) / 0.2
    losses = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        losses.append(np.log(np.exp(logits[i, others]).sum()) - logits[i, (i + 6) % 12])
    assert nt_xent(torch.from_numpy(z), 0.2).item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_collapse_scores_chance_in_info_nce() -> None:
    assert nt_xent(torch.ones(2, 8, 3)).item() == pytest.approx(math.log(15))


# ---------------------------------------------------------------- latent errors


def test_the_teacher_error_is_smooth_l1_to_normed_targets_that_do_not_learn() -> None:
    predicted = (2 * sample(3, 4, 6)).requires_grad_()
    target = (5 + 3 * sample(3, 4, 6, seed=1)).requires_grad_()
    t = target.detach().numpy()
    normed = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    apart = np.abs(predicted.detach().numpy() - normed)
    assert (apart > 1).any()
    assert (apart < 1).any()
    expected = np.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
    loss = teacher_error(predicted, target)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert target.grad is None
    assert predicted.grad is not None


def test_the_latent_error_teaches_its_targets_too() -> None:
    predicted, latents = sample(2, 3, 5).requires_grad_(), sample(2, 4, 5, seed=1).requires_grad_()
    loss = latent_error(predicted, latents[:, 1:])
    apart = predicted.detach().numpy() - latents.detach().numpy()[:, 1:]
    assert loss.item() == pytest.approx((apart**2).mean(), rel=1e-12)
    to_predicted, to_latents = gradients(loss, predicted, latents)
    torch.testing.assert_close(to_latents[:, 1:], -to_predicted)
    assert to_latents[:, 0].abs().max() == 0


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ShapeError):
        latent_error(sample(2, 4, 5), sample(2, 1, 5))
    with pytest.raises(ShapeError):
        teacher_error(sample(2, 1, 5), sample(2, 4, 5))
    with pytest.raises(ShapeError):
        nt_xent(sample(3, 4, 5))
    with pytest.raises(ShapeError):
        VicReg.of(sample(1, 4, 5))


def test_tokens_are_gathered_per_sample() -> None:
    tokens = torch.arange(24).reshape(2, 4, 3)
    found = gather_tokens(tokens, torch.tensor([[0, 2], [3, 1]]))
    assert found.tolist() == [[[0, 1, 2], [6, 7, 8]], [[21, 22, 23], [15, 16, 17]]]


# ---------------------------------------------------------------- teacher


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_teacher_starts_as_the_student_and_is_not_trained() -> None:
    student = net()
    teacher = teacher_of(student)
    for its, own in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(its, own)
        assert its.data_ptr() != own.data_ptr()
        assert not its.requires_grad
        assert own.requires_grad
    assert student.training
    assert not teacher.training


def test_an_update_moves_parameters_by_the_momentum_and_leaves_buffers() -> None:
    student = net().double()
    teacher = teacher_of(student)
    before = {name: p.numpy().copy() for name, p in teacher.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    student[1].running_mean += 5
    update_teacher(teacher, student, 0.9)
    for name, parameter in teacher.named_parameters():
        expected = 0.9 * before[name] + 0.1 * (before[name] + 1)
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=1e-12)
    assert teacher[1].running_mean.abs().max() == 0


def test_a_teacher_of_another_model_is_refused() -> None:
    with pytest.raises(ShapeError):
        update_teacher(teacher_of(net()), nn.Linear(3, 4), 0.9)
    with pytest.raises(ConfigError):
        update_teacher(teacher_of(net()), net(), 1.5)

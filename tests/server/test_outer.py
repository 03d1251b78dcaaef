"""Outer optimizers move towards the members, as plain averaging or as PyTorch's Nesterov SGD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gobelin.server import outer as outer_module
from gobelin.server.outer import (
    Nesterov,
    OuterOptimizer,
    OuterState,
    Sgd,
    make_outer,
    step_fragment,
)
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.vector import ParameterSchema

SIZE = 17


def randoms(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SIZE, generator=generator) for _ in range(count)]


def test_sgd_with_lr_1_is_the_mean_of_the_models() -> None:
    base, *models = randoms(4, seed=0)
    delta = torch.stack([model - base for model in models]).mean(dim=0)
    moved, state = Sgd(1.0).step(base, delta, {})
    assert torch.allclose(moved, torch.stack(models).mean(dim=0), atol=1e-6)
    assert state == {}


def test_sgd_scales_the_step() -> None:
    base, delta = randoms(2, seed=1)
    assert torch.allclose(Sgd(0.25).step(base, delta, {})[0], base + delta / 4)


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.3, 0.0)])
def test_nesterov_is_pytorchs_over_twenty_steps(lr: float, momentum: float) -> None:
    base, *deltas = randoms(21, seed=2)
    parameter = base.clone().requires_grad_()
    nesterov = momentum > 0  # PyTorch refuses Nesterov without momentum
    reference = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=nesterov)
    state: OuterState = {}
    for delta in deltas:
        parameter.grad = -delta
        reference.step()
        base, state = Nesterov(lr, momentum).step(base, delta, state)
        assert torch.allclose(base, parameter.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outer", [Sgd(1.0), Sgd(0.5), Nesterov(0.7, 0.9), Nesterov(1.0, 0.5)])
def test_the_consensus_walks_towards_the_members_and_not_away(outer: OuterOptimizer) -> None:
    """Members do gradient descent on ½‖θ − target‖²; the consensus must get there."""
    base, target = randoms(2, seed=3)
    first = float((base - target).norm())
    state: OuterState = {}
    for number in range(200):
        delta = -0.1 * (base - target)
        base, state = outer.step(base, delta, state)
        if number == 0:
            assert float((base - target).norm()) < first
    assert float((base - target).norm()) < 0.01 * first


def test_momentum_lives_in_the_state_alone() -> None:
    base, delta = randoms(2, seed=4)
    outer = Nesterov(0.7, 0.9)
    once, state = outer.step(base, delta, {})
    again, _ = outer.step(base, delta, {})
    assert torch.equal(once, again)
    with_momentum, later = outer.step(base, delta, state)
    assert not torch.allclose(with_momentum, once)
    assert set(state) == {"velocity"}
    assert torch.allclose(state["velocity"], -delta)
    assert torch.allclose(later["velocity"], -1.9 * delta)


@pytest.mark.parametrize("outer", [Sgd(0.7), Nesterov(0.7, 0.9)])
def test_a_step_changes_neither_base_nor_delta_nor_state(outer: OuterOptimizer) -> None:
    base, delta, velocity = randoms(3, seed=5)
    kept = [tensor.clone() for tensor in (base, delta, velocity)]
    outer.step(base, delta, {"velocity": velocity})
    assert all(map(torch.equal, (base, delta, velocity), kept))


def test_no_delta_and_no_momentum_leave_the_base() -> None:
    (base,) = randoms(1, seed=6)
    for outer in (Sgd(0.7), Nesterov(0.7, 0.9)):
        assert torch.equal(outer.step(base, torch.zeros(SIZE), {})[0], base)


def test_the_settings_name_the_optimizer() -> None:
    assert make_outer("sgd", 0.5, 0.0) == Sgd(0.5)
    assert make_outer("nesterov", 0.5, 0.8) == Nesterov(0.5, 0.8)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "yogi"])
def test_a_step_in_pieces_is_the_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer_module, "PIECE", 8)  # of 17 parameters: two pieces and an odd one
    whole = fragment_of_round(ParameterSchema.of_shapes({"w": (SIZE,)}), 1, 1)
    base, *deltas = randoms(4, seed=5)
    outer, in_pieces = make_outer(kind), base
    state: OuterState = {}
    own: OuterState = {}
    for delta in deltas:
        base, state = outer.step(base, delta, state)
        in_pieces, own = step_fragment(outer, whole, in_pieces, delta, own)
        torch.testing.assert_close(in_pieces, base, rtol=1e-6, atol=1e-7)
    assert own.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-6, atol=1e-7)

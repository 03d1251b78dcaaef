"""Adaptive outer optimizers: PyTorch's Adam, golden trajectories, state that outlives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gobelin.server.outer import OUTERS, Adam, OuterState, Yogi, make_outer
from gobelin.shared.checkpoint import read_checkpoint, write_checkpoint
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.server.golden.make_outer import FILE, SKIPPED, trajectory

SIZE = 17


def randoms(count: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(SIZE, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("lr", "beta1", "beta2", "tau"), [(0.01, 0.9, 0.99, 1e-3), (1.0, 0.0, 0.9, 1.0)]
)
def test_adam_is_pytorchs_over_twenty_steps(
    lr: float, beta1: float, beta2: float, tau: float, scale: float
) -> None:
    base, *deltas = randoms(21, 2, scale)
    parameter = base.clone().requires_grad_()
    reference = torch.optim.Adam([parameter], lr=lr, betas=(beta1, beta2), eps=tau)
    state: OuterState = {}
    for delta in deltas:
        parameter.grad = -delta
        reference.step()
        base, state = Adam(lr, beta1, beta2, tau).step(base, delta, state)
        assert torch.allclose(base, parameter.detach(), rtol=1e-5, atol=1e-6)


def test_yogi_is_adam_until_a_delta_is_smaller_than_the_memory() -> None:
    base, large = randoms(2, 3)
    small = 0.01 * large
    both = [outer.step(base, large, {}) for outer in (Adam(), Yogi())]
    assert torch.equal(both[0][0], both[1][0])
    adam = Adam().step(base, small, both[0][1])[1]["second_moment"]
    yogi = Yogi().step(base, small, both[1][1])[1]["second_moment"]
    # FedYogi's second moment (arXiv:2003.00295, algorithm 2) forgets additively
    expected = both[1][1]["second_moment"] - 0.01 * small.square()
    assert torch.allclose(yogi, expected)
    assert bool((yogi > adam).all())


@pytest.mark.parametrize("kind", list(OUTERS))
def test_trajectories_are_the_golden_ones(kind: str) -> None:
    rows = json.loads(FILE.read_text())[kind]
    assert trajectory(kind) == rows
    before, skipped = rows[SKIPPED - 2], rows[SKIPPED - 1]
    assert (skipped["base"], skipped["state"]) == (before["base"], before["state"])


@pytest.mark.parametrize("kind", list(OUTERS))
def test_the_consensus_walks_towards_the_members(kind: str) -> None:
    base, target = randoms(2, 5)
    first, state = float((base - target).norm()), {}
    for _ in range(400):
        base, state = make_outer(kind).step(base, -0.1 * (base - target), state)
    assert float((base - target).norm()) < 0.05 * first


@pytest.mark.parametrize("kind", list(OUTERS))
def test_state_through_a_checkpoint_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    schema = ParameterSchema.of_shapes({"trunk.w": (SIZE,)})
    base, *deltas = randoms(7, 6)
    straight, resumed = (base, {}), (base, {})
    for number, delta in enumerate(deltas):
        straight = make_outer(kind).step(straight[0], delta, straight[1])
        moved, state = make_outer(kind).step(resumed[0], delta, resumed[1])
        folder = tmp_path / str(number)
        extra = {"outer": state} if state else {}
        write_checkpoint(folder, load_recipe("toy"), ParameterVector(schema, moved), {}, extra)
        found = read_checkpoint(folder)
        resumed = (found.vector.values, dict(found.extra.get("outer", {})))
    assert torch.equal(straight[0], resumed[0])
    assert set(straight[1]) == set(resumed[1])
    assert all(torch.equal(straight[1][name], resumed[1][name]) for name in straight[1])


@pytest.mark.parametrize("kind", list(OUTERS))
def test_a_step_changes_nothing_it_is_given(kind: str) -> None:
    base, delta, again = randoms(3, 7)
    _, state = make_outer(kind).step(base, delta, {})
    kept = {name: tensor.clone() for name, tensor in state.items()}
    given = base.clone(), again.clone()
    make_outer(kind).step(base, again, state)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert all(map(torch.equal, (base, again), given))


def test_what_the_settings_leave_open_is_the_optimizers_own() -> None:
    assert make_outer("adam") == Adam(0.01, 0.9, 0.99, 1e-3)
    assert make_outer("yogi", 0.1, tau=0.01) == Yogi(0.1, 0.9, 0.99, 0.01)
    assert make_outer("sgd", tau=0.5) == OUTERS["sgd"]()

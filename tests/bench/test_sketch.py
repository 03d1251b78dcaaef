"""Sketches make SIGReg one test of all nodes' data; without them nothing changes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.sketch import Sketch
from gobelin.shared.errors import ShapeError
from gobelin.shared.objective.lejepa import LeJepa
from gobelin.shared.objective.objective import Draw, LeJepaRecipe
from gobelin.shared.objective.sigreg import characteristic, directions, quadrature, sigreg

SEED, SLICES, KNOTS, T_MAX = 5, 24, 9, 3.0
DIM = 6


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sketch_of(z: Tensor, seed: int = SEED) -> Sketch:
    return Sketch.of(z, seed, SLICES, KNOTS, T_MAX)


def nodes() -> list[Tensor]:
    """Three nodes' projections: other places, other spreads, other numbers of samples."""
    return [sample(40, DIM, seed=k) * (0.3 + k) + 2 * k - 2 for k in range(3)]


def global_sketch(own: list[Tensor]) -> Sketch:
    return Sketch.mean((sketch_of(z), Fraction(1)) for z in own)


def naive(z: Tensor, slices: Tensor, offset: tuple[Tensor, Tensor]) -> Tensor:
    """T with an offset as the formula says, every cosine and sine."""
    t, phi, weights = quadrature(KNOTS, T_MAX, z)
    angles = (z @ slices)[..., None] * t  # (..., N, M, K)
    real = angles.cos().mean(dim=-3) + offset[0] - phi
    imaginary = angles.sin().mean(dim=-3) + offset[1]
    return z.shape[-2] * ((real.square() + imaginary.square()) @ weights).mean()


@pytest.mark.parametrize("shape", [(32, DIM), (2, 32, DIM)])
def test_with_an_offset_the_recurrence_equals_the_plain_form(shape: tuple[int, ...]) -> None:
    z = (1.5 * sample(*shape)).requires_grad_()
    slices = directions(1, DIM, SLICES)
    offset = (0.2 * sample(SLICES, KNOTS, seed=1), 0.2 * sample(SLICES, KNOTS, seed=2))
    fast, plain = sigreg(z, slices, KNOTS, T_MAX, offset), naive(z, slices, offset)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)
    ours, theirs = (torch.autograd.grad(t, z)[0] for t in (fast, plain))
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_with_an_offset_the_gradient_is_that_of_the_value() -> None:
    z = sample(5, 3).double().requires_grad_()
    slices = directions(1, 3, 4).double()
    offset = (0.3 * sample(4, KNOTS, seed=1).double(), 0.3 * sample(4, KNOTS, seed=2).double())
    assert torch.autograd.gradcheck(lambda z: sigreg(z, slices, KNOTS, T_MAX, offset), z)


def test_a_zero_offset_leaves_value_and_gradient_to_the_bit() -> None:
    z = sample(64, DIM).requires_grad_()
    slices, zero = directions(1, DIM, SLICES), torch.zeros(SLICES, KNOTS)
    with_zero = sigreg(z, slices, KNOTS, T_MAX, (zero, zero))
    without = sigreg(z, slices, KNOTS, T_MAX)
    assert torch.equal(with_zero, without)
    assert torch.equal(*(torch.autograd.grad(t, z)[0] for t in (with_zero, without)))


def test_a_single_node_has_a_zero_offset() -> None:
    own = sketch_of(sample(40, DIM))
    offset = Sketch.mean([(own, Fraction(1))]).offset_from(own)
    assert not offset.cosine.any()
    assert not offset.sine.any()


def test_at_the_base_every_node_tests_the_pooled_data() -> None:
    own = nodes()
    together = global_sketch(own)
    pooled = sketch_of(torch.cat(own))
    slices = directions(SEED, DIM, SLICES)
    for z in own:
        offset = together.offset_from(sketch_of(z))
        cosine, sine = characteristic(z @ slices, KNOTS, T_MAX)
        torch.testing.assert_close(cosine + offset.cosine, pooled.cosine, rtol=0, atol=2e-6)
        torch.testing.assert_close(sine + offset.sine, pooled.sine, rtol=0, atol=2e-6)
        tested = sigreg(z, slices, KNOTS, T_MAX, (offset.cosine, offset.sine)) / len(z)
        of_all = sigreg(torch.cat(own), slices, KNOTS, T_MAX) / 120
        torch.testing.assert_close(tested, of_all, rtol=1e-4, atol=0)


def test_at_the_base_the_mean_gradient_is_that_of_the_pooled_test() -> None:
    own = nodes()
    together, slices = global_sketch(own), directions(SEED, DIM, SLICES)
    everything = torch.cat(own).requires_grad_()
    pooled = sigreg(everything, slices, KNOTS, T_MAX) / 120
    expected = torch.autograd.grad(pooled, everything)[0]
    parts = []
    for z in own:
        offset, live = together.offset_from(sketch_of(z)), z.clone().requires_grad_()
        tested = sigreg(live, slices, KNOTS, T_MAX, (offset.cosine, offset.sine)) / len(z)
        parts.append(torch.autograd.grad(tested, live)[0] / len(own))
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-3, atol=1e-6)


def test_the_mean_has_the_same_bits_in_any_order() -> None:
    weighted = [(sketch_of(z), Fraction(k + 1, 7)) for k, z in enumerate(nodes())]
    means = [Sketch.mean(order) for order in permutations(weighted)]
    assert all(torch.equal(mean.cosine, means[0].cosine) for mean in means)
    assert all(torch.equal(mean.sine, means[0].sine) for mean in means)


def test_a_node_that_declines_weighs_nothing() -> None:
    a, b, _ = map(sketch_of, nodes())
    alone = Sketch.mean([(a, Fraction(1)), (b, Fraction(0))])
    assert torch.equal(alone.cosine, Sketch.mean([(a, Fraction(1))]).cosine)
    with pytest.raises(ShapeError):
        Sketch.mean([(a, Fraction(0))])


@given(st.integers(1, 20), st.floats(0, 1e6), st.integers(0, 99))
def test_no_data_whatever_makes_a_sketch_exceed_its_bound(
    samples: int, scale: float, seed: int
) -> None:
    made = sketch_of(scale * sample(samples, DIM, seed=seed))
    assert float(made.cosine.abs().max()) <= 1
    assert float(made.sine.abs().max()) <= 1


def test_one_sample_moves_a_sketch_by_at_most_two_over_n() -> None:
    z = sample(50, DIM)
    other = z.clone()
    other[7] = 100.0
    a, b = sketch_of(z), sketch_of(other)
    assert float((a.cosine - b.cosine).abs().max()) <= 2 / 50 + 1e-6
    assert float((a.sine - b.sine).abs().max()) <= 2 / 50 + 1e-6


def test_sketches_under_other_slices_do_not_mix() -> None:
    z = sample(40, DIM)
    with pytest.raises(ShapeError):
        sketch_of(z).offset_from(sketch_of(z, seed=SEED + 1))


def test_a_step_picks_slices_with_their_own_offsets() -> None:
    own = nodes()
    offset = global_sketch(own).offset_from(sketch_of(own[0]))
    slices, (cosine, sine) = offset.draw(3, DIM, 8, KNOTS, T_MAX)
    everything = directions(SEED, DIM, SLICES)
    for m in range(8):
        (index,) = (slices[:, m] == everything.T).all(dim=1).nonzero()
        assert torch.equal(cosine[m], offset.cosine[index[0]])
        assert torch.equal(sine[m], offset.sine[index[0]])
    assert not torch.equal(slices, offset.draw(4, DIM, 8, KNOTS, T_MAX)[0])


def test_lejepa_tests_all_nodes_data_with_an_offset() -> None:
    own = nodes()
    recipe = LeJepaRecipe(slices=SLICES, knots=KNOTS, t_max=T_MAX, reference_batch=40)
    objective = LeJepa(recipe)
    offset = global_sketch(own).offset_from(sketch_of(own[0]))
    found = objective.loss(own[0][None], 1, Draw(torch.Generator(), 0, offset)).collapse
    of_all = sigreg(torch.cat(own), directions(SEED, DIM, SLICES), KNOTS, T_MAX) / 120
    torch.testing.assert_close(found, of_all, rtol=1e-4, atol=0)
    zero = replace(offset, cosine=0 * offset.cosine, sine=0 * offset.sine)
    alone = objective.loss(own[0][None], 1, Draw(torch.Generator(), 0, zero)).collapse
    assert abs(alone - of_all) > 0.01

"""Moments correct SIGReg under any slices, to the order of a Gaussian."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.shared.errors import NotFiniteError, ShapeError
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import RADII
from gobelin.shared.objective.sigreg import characteristic, directions, sigreg

DIM, KNOTS, T_MAX = 6, 9, 3.0


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nodes(samples: int = 50) -> list[Tensor]:
    return [sample(samples, DIM, seed=k) * (0.3 + k / 2) + k / 2 - 0.5 for k in range(3)]


def pooled(own: list[Tensor]) -> Moments:
    return Moments.pool((Moments.of(z), Fraction(1)) for z in own)


def test_pooling_gives_the_moments_of_the_data_together() -> None:
    own = nodes()
    together, expected = pooled(own), Moments.of(torch.cat(own))
    torch.testing.assert_close(together.mean, expected.mean)
    torch.testing.assert_close(together.second, expected.second)
    assert together.samples == expected.samples == 150


def test_pooling_has_the_same_bits_in_any_order() -> None:
    weighted = [(Moments.of(z), Fraction(k + 1, 7)) for k, z in enumerate(nodes())]
    pools = [Moments.pool(order) for order in permutations(weighted)]
    assert all(torch.equal(pool.second, pools[0].second) for pool in pools)


def test_a_node_that_declines_weighs_nothing() -> None:
    a, b, _ = map(Moments.of, nodes())
    alone = Moments.pool([(a, Fraction(1)), (b, Fraction(0))])
    torch.testing.assert_close(alone.second, a.second)
    with pytest.raises(ShapeError):
        Moments.pool([(a, Fraction(0))])


def test_a_gaussians_characteristic_function_follows_from_its_moments() -> None:
    z = sample(20_000, DIM) @ (sample(DIM, DIM, seed=1) / 3) + 0.4
    slices = directions(0, DIM, 16)
    found = Moments.of(z).characteristic(slices, KNOTS, T_MAX)
    for ours, empirical in zip(found, characteristic(z @ slices, KNOTS, T_MAX), strict=True):
        torch.testing.assert_close(ours, empirical, rtol=0, atol=0.03)


def test_a_single_node_has_a_zero_offset() -> None:
    own = Moments.of(sample(40, DIM))
    _, (cosine, sine) = own.offset_from(own).draw(0, DIM, 8, KNOTS, T_MAX)
    assert not cosine.any()
    assert not sine.any()


def test_parts_of_a_gaussian_are_no_longer_stretched() -> None:
    # Two nodes hold the two sides of a healthy Gaussian: alone each is far from N(0, I).
    z = sample(4000, DIM)
    sides = [z[z[:, 0] < 0], z[z[:, 0] >= 0]]
    together = pooled(sides)
    for side in sides:
        offset = together.offset_from(Moments.of(side))
        slices, shift = offset.draw(3, DIM, 64, KNOTS, T_MAX)
        alone = sigreg(side, slices, KNOTS, T_MAX)
        assert sigreg(side, slices, KNOTS, T_MAX, shift) < alone / 4


@given(st.integers(1, 20), st.floats(0, 1e6), st.integers(0, 99))
def test_no_data_whatever_makes_moments_exceed_their_bound(
    samples: int, scale: float, seed: int
) -> None:
    made = Moments.of(scale * sample(samples, DIM, seed=seed))
    assert float(made.second.trace()) <= RADII**2 * DIM * 1.001


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 100.0])
def test_other_numbers_are_refused(value: float) -> None:
    with pytest.raises(NotFiniteError):
        Moments(torch.zeros(DIM), torch.full((DIM, DIM), value), 1)
    with pytest.raises(NotFiniteError):
        Moments(torch.full((DIM,), value), torch.zeros(DIM, DIM), 1)

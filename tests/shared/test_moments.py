"""Moments correct SIGReg under any slices, to the order of a Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.shared.errors import MomentsError, ShapeError
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import RADII, size_of
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
    assert len({pool.digest for pool in pools}) == 1


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


@pytest.mark.parametrize(
    "numbers",
    [
        (torch.zeros(DIM), torch.full((DIM, DIM), float("nan"))),
        (torch.full((DIM,), float("inf")), torch.eye(DIM)),
        (torch.zeros(DIM), torch.eye(DIM) + 0.1 * torch.ones(DIM, DIM).triu(1)),
        (torch.zeros(DIM), torch.zeros(DIM, DIM + 1)),
        (torch.zeros(0), torch.zeros(0, 0)),
    ],
    ids=["NaN", "infinity", "not symmetric", "not square", "of no dimension"],
)
def test_other_numbers_are_refused(numbers: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(MomentsError):
        Moments(*numbers, 1)


NOBODYS = {
    "too large": (torch.zeros(DIM), 100 * torch.eye(DIM)),
    "a mean longer than the second moment says": (torch.full((DIM,), 2.0), torch.eye(DIM)),
    "a negative variance": (torch.zeros(DIM), -torch.eye(DIM)),
    "a correlation above 1": (torch.zeros(DIM), torch.full((DIM, DIM), 2.0) - torch.eye(DIM)),
    "as large as can be beside the diagonal": (
        torch.zeros(DIM),
        torch.full((DIM, DIM), 3e38).fill_diagonal_(1.0),
    ),
}


@pytest.mark.parametrize("numbers", NOBODYS.values(), ids=list(NOBODYS))
def test_bytes_that_are_no_datas_moments_are_refused(numbers: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(MomentsError):
        Moments.from_bytes(Moments(*numbers, 1).to_bytes(), DIM)


def test_moments_at_every_bound_still_pool() -> None:
    """Else those who send them could keep a round from its seal."""
    edge = torch.full((DIM,), RADII**2 * 1.001).diag() - 1e-6 * torch.eye(DIM)
    extreme = Moments.from_bytes(Moments(torch.zeros(DIM), edge, (1 << 63) - 1).to_bytes(), DIM)
    pooled = Moments.pool([(extreme, Fraction(1)), (extreme, Fraction(1, 3))])
    assert pooled.samples == (1 << 63) - 1
    assert Moments.pool([(pooled, Fraction(1))] * 7).samples == (1 << 63) - 1


@pytest.mark.parametrize("samples", [0, -1, 1 << 63])
def test_moments_are_of_some_samples(samples: int) -> None:
    with pytest.raises(MomentsError, match="samples"):
        Moments(torch.zeros(DIM), torch.eye(DIM), samples)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_projections_that_are_not_finite_have_no_moments(value: float) -> None:
    with pytest.raises(MomentsError, match="NaN or infinity"):
        Moments.of(torch.full((4, DIM), value))


@given(st.integers(1, 20), st.floats(0, 1e6), st.integers(1, 9), st.integers(0, 99))
def test_bytes_go_there_and_back(samples: int, scale: float, dim: int, seed: int) -> None:
    made = Moments.of(scale * sample(samples, dim, seed=seed))
    again = Moments.from_bytes(made.to_bytes(), dim)
    assert torch.equal(again.mean, made.mean)
    assert torch.equal(again.second, made.second)
    assert again.samples == samples
    assert again.to_bytes() == made.to_bytes()
    assert again.digest == made.digest
    assert len(made.to_bytes()) == size_of(dim) == 8 + 4 * (dim + dim * (dim + 1) // 2)


def test_minus_zero_is_another_number() -> None:
    data = bytearray(Moments(torch.zeros(DIM), torch.eye(DIM), 1).to_bytes())
    data[8 + 4 * DIM + 7] = 0x80  # the sign of the first number beside the diagonal
    assert Moments.from_bytes(bytes(data), DIM).to_bytes() == data


@given(st.binary(max_size=size_of(3)) | st.binary(min_size=size_of(3), max_size=size_of(3)))
def test_any_bytes_are_moments_in_canonical_form_or_one_error(data: bytes) -> None:
    try:
        made = Moments.from_bytes(data, 3)
    except MomentsError:
        return
    assert made.to_bytes() == data


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes(8) + data[8:],  # no samples
        lambda data: b"\xff" * 8 + data[8:],  # too many
        lambda data: data[:-4] + b"\0\0\xc0\x7f",  # NaN
        lambda data: data[:-4] + b"\0\0\x80\xbf",  # −1, on the diagonal
        lambda data: data[:-4] + b"\0\0\x80\x7f",  # infinity
    ],
)
def test_other_bytes_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MomentsError):
        Moments.from_bytes(spoil(Moments.of(sample(40, DIM)).to_bytes()), DIM)


def test_moments_of_another_dimension_are_refused() -> None:
    with pytest.raises(MomentsError, match=f"at D = {DIM + 1}"):
        Moments.from_bytes(Moments.of(sample(40, DIM)).to_bytes(), DIM + 1)


@given(st.integers(1, 20), st.integers(0, 19), st.floats(0, 1e3), st.integers(0, 99))
def test_one_sample_moves_moments_by_no_more_than_the_sensitivity(
    samples: int, which: int, scale: float, seed: int
) -> None:
    z = scale * sample(samples, DIM, seed=seed)
    other = z.clone()
    other[which % samples] = scale * sample(DIM, seed=seed + 1)
    assert distance(z, other) <= Moments.of(z).sensitivity * 1.001


def test_the_sensitivity_is_reached() -> None:
    radius = RADII * DIM**0.5
    angle = torch.acos(torch.tensor(-0.5 / radius**2))
    z, other = torch.zeros(2, 1, DIM)
    z[0, 0] = radius
    other[0, 0], other[0, 1] = radius * angle.cos(), radius * angle.sin()
    assert distance(z, other) == pytest.approx(Moments.of(z).sensitivity, rel=1e-4)


def distance(one: Tensor, two: Tensor) -> float:
    """Euclidean, of the moments of two samples."""
    a, b = Moments.of(one), Moments.of(two)
    return float(((a.mean - b.mean).square().sum() + (a.second - b.second).square().sum()).sqrt())


def test_a_sample_weighs_in_the_pool_what_its_node_does() -> None:
    few, many = Moments.of(sample(10, DIM)), Moments.of(sample(1000, DIM, seed=1))
    assert Moments.pool([(few, Fraction(1)), (many, Fraction(1))]).samples == 20
    assert Moments.pool([(few, Fraction(1)), (many, Fraction(3))]).samples == 40

"""The weighted mean is the exact one, rounded once, whatever the order of arrival."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.server.aggregation import CAPACITY, LIMIT, SCALE_BITS, WeightedMean
from gobelin.shared.vector import ParameterSchema, ParameterVector

WIDTH = 5
SCHEMA = ParameterSchema.of_shapes({"w": (WIDTH,)})
ONE = Fraction(1)

VALUES = st.floats(-LIMIT, LIMIT, width=32)
DELTAS = st.lists(VALUES, min_size=WIDTH, max_size=WIDTH)
WEIGHTS = st.fractions(Fraction(1, 50), 1, max_denominator=50)
ROUNDS = st.lists(st.tuples(DELTAS, WEIGHTS), min_size=1, max_size=6)


def vector(values: list[float]) -> ParameterVector:
    return ParameterVector(SCHEMA, torch.tensor(values))


def mean_of(contributions: list[tuple[list[float], Fraction]]) -> ParameterVector:
    mean = WeightedMean(SCHEMA)
    for values, weight in contributions:
        mean.add(vector(values), weight)
    return mean.mean()


@given(ROUNDS)
def test_the_mean_is_the_rational_mean_rounded(
    contributions: list[tuple[list[float], Fraction]],
) -> None:
    total = sum((w for _, w in contributions), Fraction(0))
    found = mean_of(contributions).values.tolist()
    for i in range(WIDTH):
        exact = sum((w * Fraction(v[i]) for v, w in contributions), Fraction(0)) / total
        ulp = float(np.spacing(np.float32(abs(float(exact)))))
        resolution = len(contributions) / float(total) * 2.0**-SCALE_BITS
        # a weight that is no binary fraction, such as 1/3, costs fp64's own rounding as well
        largest = max(abs(v[i]) for v, _ in contributions)
        assert abs(found[i] - float(exact)) <= ulp + resolution + 2**-50 * largest * 6


@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_a_bit(
    contributions: list[tuple[list[float], Fraction]], random
) -> None:
    shuffled = list(contributions)
    random.shuffle(shuffled)
    assert mean_of(shuffled).digest == mean_of(contributions).digest


def test_an_order_that_would_change_a_float_sum_does_not_change_this_one() -> None:
    one, tiny = [4096.0] * WIDTH, [2.0**-30] * WIDTH
    back = [-4096.0] * WIDTH
    for order in ([one, tiny, back], [one, back, tiny], [tiny, one, back]):
        found = mean_of([(values, ONE) for values in order]).values
        assert found.tolist() == pytest.approx([2.0**-30 / 3] * WIDTH, rel=1e-3)


def test_a_lone_contribution_is_its_own_mean() -> None:
    values = [1.5, -0.1, 0.0, LIMIT, -LIMIT]
    assert torch.allclose(mean_of([(values, Fraction(1, 3))]).values, torch.tensor(values))
    assert torch.equal(mean_of([(values, ONE)]).values[:1], torch.tensor([1.5]))


def test_a_weight_counts_as_so_many_contributions() -> None:
    half = Fraction(1, 2)
    twice = mean_of([([3.0] * WIDTH, half), ([3.0] * WIDTH, half), ([0.0] * WIDTH, ONE)])
    assert twice.values.tolist() == [1.5] * WIDTH
    uneven = mean_of([([4.0] * WIDTH, Fraction(1, 4)), ([0.0] * WIDTH, Fraction(3, 4))])
    assert uneven.values.tolist() == [1.0] * WIDTH


def test_the_weight_so_far_is_kept_exactly() -> None:
    mean = WeightedMean(SCHEMA)
    for _ in range(3):
        mean.add(vector([0.0] * WIDTH), Fraction(1, 3))
    assert mean.weight == 1


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no contributions"):
        WeightedMean(SCHEMA).mean()


@pytest.mark.parametrize("place", range(WIDTH))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_delta_beyond_the_limit_is_refused_and_leaves_the_mean(place: int, sign: int) -> None:
    mean = WeightedMean(SCHEMA)
    mean.add(vector([1.0] * WIDTH), ONE)
    before = mean.mean().digest
    values = [0.0] * WIDTH
    values[place] = sign * float(np.nextafter(np.float32(LIMIT), np.float32(np.inf)))
    with pytest.raises(ValueError, match="exceeds"):
        mean.add(vector(values), ONE)
    assert (mean.mean().digest, mean.weight) == (before, 1)


@pytest.mark.parametrize("weight", [Fraction(0), Fraction(-1), Fraction(3, 2)])
def test_a_weight_outside_of_one_member_is_refused(weight: Fraction) -> None:
    mean = WeightedMean(SCHEMA)
    with pytest.raises(ValueError, match="weight"):
        mean.add(vector([1.0] * WIDTH), weight)
    assert mean.weight == 0


def test_the_sum_holds_as_many_members_as_it_says_and_refuses_one_more() -> None:
    mean, largest = WeightedMean(SCHEMA), vector([LIMIT, -LIMIT, LIMIT, -LIMIT, 0.0])
    for _ in range(CAPACITY):
        mean.add(largest, ONE)
    assert mean.mean().values.tolist() == [LIMIT, -LIMIT, LIMIT, -LIMIT, 0.0]


def test_one_member_more_than_the_sum_holds_is_refused() -> None:
    mean = WeightedMean(SCHEMA)
    for _ in range(CAPACITY):
        mean.add(vector([1.0] * WIDTH), ONE)
    with pytest.raises(ValueError, match="does not fit"):
        mean.add(vector([1.0] * WIDTH), Fraction(1, 2))
    assert mean.mean().values.tolist() == [1.0] * WIDTH


LARGE = ParameterSchema.of_shapes({"w": ((1 << 20) + 3,)})


def test_a_vector_longer_than_one_piece_is_summed_whole() -> None:
    values = torch.randn(LARGE.size, generator=torch.Generator().manual_seed(0))
    mean = WeightedMean(LARGE)
    mean.add(ParameterVector(LARGE, values), ONE)
    mean.add(ParameterVector(LARGE, -3 * values), ONE)
    assert torch.allclose(mean.mean().values, -values, atol=2.0**-SCALE_BITS, rtol=2**-22)


def test_a_large_delta_beyond_the_limit_leaves_the_mean() -> None:
    mean = WeightedMean(LARGE)
    mean.add(ParameterVector(LARGE, torch.ones(LARGE.size)), ONE)
    before = mean.mean().digest
    values = torch.ones(LARGE.size) * 5
    values[-1] = 2 * LIMIT
    with pytest.raises(ValueError, match="exceeds"):
        mean.add(ParameterVector(LARGE, values), ONE)
    assert mean.mean().digest == before

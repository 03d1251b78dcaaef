"""The weighted mean is the exact one, rounded once, whatever the order of the members."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.server import scratch
from gobelin.server.aggregation import LIMIT, InMemory, aggregate, weighted_mean
from gobelin.server.deltas import RoundDeltas
from gobelin.server.merge import Counted, Merger
from gobelin.server.rules import RULES, make_rule
from gobelin.shared.vector import ParameterSchema, ParameterVector

WIDTH = 5
SCHEMA = ParameterSchema.of_shapes({"w": (WIDTH,)})
LARGE = ParameterSchema.of_shapes({"w": ((1 << 20) + 3,)})
ONE = Fraction(1)

VALUES = st.floats(-LIMIT, LIMIT, width=32)
DELTAS = st.lists(VALUES, min_size=WIDTH, max_size=WIDTH)
WEIGHTS = st.fractions(Fraction(1, 50), 1, max_denominator=50)
ROUNDS = st.lists(st.tuples(DELTAS, WEIGHTS), min_size=1, max_size=6)
Contributions = list[tuple[list[float], Fraction]]


def shared_out(contributions: Contributions) -> Contributions:
    """The same contributions with weights of sum 1."""
    total = sum((w for _, w in contributions), Fraction(0))
    return [(values, w / total) for values, w in contributions]


def mean_of(contributions: Contributions) -> torch.Tensor:
    deltas = InMemory([torch.tensor(values) for values, _ in contributions])
    return aggregate(deltas, [w for _, w in contributions], make_rule("mean")).delta


def beyond_the_limit() -> float:
    return float(np.nextafter(np.float32(LIMIT), np.float32(np.inf)))


@given(ROUNDS, st.booleans())
def test_the_mean_is_the_rational_mean_rounded(contributions: Contributions, half: bool) -> None:
    """Up to the limit; with weights of sum 1/2 it is half of it, for nothing is renormalised."""
    weighted = shared_out(contributions)
    if half:
        weighted = [(values, w / 2) for values, w in weighted]
    found = mean_of(weighted).tolist()
    for i in range(WIDTH):
        exact = sum((w * Fraction(v[i]) for v, w in weighted), Fraction(0))
        ulp = float(np.spacing(np.float32(abs(float(exact)))))
        # half a step of the grid a delta, at worst 2⁻³⁷ for six deltas at the limit, and fp64's own
        # rounding of weights that are no binary fractions
        resolution = len(weighted) * 2.0**-38
        largest = max(abs(v[i]) for v, _ in weighted)
        assert abs(found[i] - float(exact)) <= ulp + resolution + 2**-50 * largest * 6


@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_change_a_bit(
    contributions: Contributions, random
) -> None:
    weighted = shared_out(contributions)
    shuffled = list(weighted)
    random.shuffle(shuffled)
    assert mean_of(shuffled).numpy().tobytes() == mean_of(weighted).numpy().tobytes()


def test_a_lone_contribution_is_its_own_mean() -> None:
    values = [1.5, -0.1, 0.0, LIMIT, -LIMIT]
    assert torch.equal(mean_of([(values, ONE)]), torch.tensor(values))


def test_a_weight_counts_as_so_many_contributions() -> None:
    quarter = Fraction(1, 4)
    twice = [([3.0] * WIDTH, quarter), ([3.0] * WIDTH, quarter), ([0.0] * WIDTH, 2 * quarter)]
    assert mean_of(twice).tolist() == [1.5] * WIDTH
    uneven = mean_of([([4.0] * WIDTH, quarter), ([0.0] * WIDTH, 3 * quarter)])
    assert uneven.tolist() == [1.0] * WIDTH


def test_a_delta_of_no_weight_leaves_the_mean() -> None:
    without = mean_of([([1.25] * WIDTH, ONE)])
    assert torch.equal(mean_of([([1.25] * WIDTH, ONE), ([LIMIT] * WIDTH, Fraction(0))]), without)


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_of_nothing_is_refused(rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 weights"):
        aggregate(InMemory([]), [], make_rule(rule))
    with pytest.raises(ValueError, match="0 weights"):
        aggregate(RoundDeltas(tmp_path / "none", WIDTH), [], make_rule(rule))


@pytest.mark.parametrize("weight", [Fraction(-1), Fraction(3, 2)])
def test_a_weight_outside_of_one_member_is_refused(weight: Fraction) -> None:
    with pytest.raises(ValueError, match="weight"):
        mean_of([([1.0] * WIDTH, weight)])


@pytest.mark.parametrize("count", [2047, 2048, 5000])
def test_any_number_of_members_at_the_limit_is_summed_exactly(count: int) -> None:
    """2047 was what a sum in int64 could hold; there is no such bound now."""
    largest = torch.tensor([LIMIT, -LIMIT, LIMIT, -LIMIT, 0.0])
    found = weighted_mean(InMemory([largest] * count), [Fraction(1, count)] * count)
    assert torch.equal(found, largest)


def test_a_vector_longer_than_one_piece_is_summed_whole() -> None:
    values = torch.randn(LARGE.size, generator=torch.Generator().manual_seed(0))
    deltas, half = InMemory([values, -3 * values]), [Fraction(1, 2)] * 2
    for found in (weighted_mean(deltas, half), aggregate(deltas, half, make_rule("mean")).delta):
        assert torch.allclose(found, -values, atol=2.0**-40, rtol=2**-22)


# ---------------------------------------------------------------- the limit, on the way to disk


@pytest.mark.parametrize("place", range(WIDTH))
@pytest.mark.parametrize("value", [beyond_the_limit(), -beyond_the_limit()])
def test_a_delta_beyond_the_limit_is_refused_and_nothing_of_it_kept(
    place: int, value: float, tmp_path: Path
) -> None:
    deltas = RoundDeltas(tmp_path / "collecting", SCHEMA.size)
    deltas.add("a", ParameterVector(SCHEMA, torch.ones(WIDTH)))
    values = torch.zeros(WIDTH)
    values[place] = value
    with pytest.raises(ValueError, match="exceeds"):
        deltas.add("b", ParameterVector(SCHEMA, values))
    assert (len(deltas), deltas.names) == (1, ["a"])
    assert [path.name for path in (tmp_path / "collecting").iterdir()] == ["a.f32"]
    assert weighted_mean(deltas, [ONE]).tolist() == [1.0] * WIDTH


def test_a_delta_at_the_limit_is_kept(tmp_path: Path) -> None:
    deltas = RoundDeltas(tmp_path / "collecting", SCHEMA.size)
    deltas.add("a", ParameterVector(SCHEMA, torch.tensor([LIMIT, -LIMIT, 0.0, 1.0, -1.0])))
    assert weighted_mean(deltas, [ONE]).tolist() == [LIMIT, -LIMIT, 0.0, 1.0, -1.0]


def test_a_large_delta_is_checked_whole_before_a_piece_of_it_counts(tmp_path: Path) -> None:
    deltas = RoundDeltas(tmp_path / "collecting", LARGE.size)
    deltas.add("a", ParameterVector(LARGE, torch.ones(LARGE.size)))
    values = torch.ones(LARGE.size) * 5
    values[-1] = 2 * LIMIT
    with pytest.raises(ValueError, match="exceeds"):
        deltas.add("a", ParameterVector(LARGE, values))
    assert torch.equal(weighted_mean(deltas, [ONE]), torch.ones(LARGE.size))


def test_a_delta_of_another_size_is_refused(tmp_path: Path) -> None:
    deltas = RoundDeltas(tmp_path / "collecting", WIDTH + 1)
    with pytest.raises(ValueError, match="5 parameters, not 6"):
        deltas.add("a", ParameterVector(SCHEMA, torch.ones(WIDTH)))
    assert len(deltas) == 0


def test_buffers_are_the_same_ones_in_every_round() -> None:
    """A name made of anything that changes would keep a buffer more each round, for months."""
    deltas = InMemory([torch.ones(WIDTH) * k for k in range(1, 5)])
    counted = [Counted(f"m{k % 3}", steps=1 + k) for k in range(4)]
    merger = Merger(make_rule("clipped_mean"), cap=0.5)
    merger.merge(deltas, counted, {})
    before = set(vars(scratch._own))
    kept = [merger.merge(deltas, counted, {}) for _ in range(20)]
    assert len(kept) == 20
    assert set(vars(scratch._own)) == before
    assert {name.rpartition(" ")[0] for name in before if "normalised" in name} == {"normalised"}

"""Methods that make one delta of several, by hand and by what must hold of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.client.sovereign.merging import (
    METHODS,
    Dare,
    TaskArithmetic,
    Ties,
    Weights,
    make_method,
    shares,
    thin,
    trim,
)
from gobelin.shared.errors import ConfigError
from gobelin.shared.seeds import generator_of

HALF = [0.5, 0.5]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def drawn(seed: int, size: int) -> Tensor:
    return torch.randn(size, generator=generator_of(seed, "delta"))


# -------------------------------------------------------------- by hand


def test_interpolation_is_the_weighted_mean() -> None:
    one, other = vector(1, -2, 0), vector(3, 2, 4)
    assert torch.equal(Weights().merge([one, other], HALF), vector(2, 0, 2))
    assert torch.allclose(Weights().merge([one, other], [0.75, 0.25]), vector(1.5, -1, 1))


def test_task_arithmetic_is_the_scaled_sum() -> None:
    """θ = θ₀ + λ Σ τᵢ (arXiv:2212.04089 §2), λ = 0.4."""
    merged = TaskArithmetic(0.4).merge([vector(1, -2, 0), vector(3, 2, 4)], HALF)
    assert torch.allclose(merged, vector(1.6, 0, 1.6))


def test_ties_trims_elects_and_averages_what_agrees() -> None:
    """By hand (arXiv:2306.01708 §4), three deltas, density 0.5 of four parameters, λ = 1.

    Trimmed: (4, −3, 0, 0), (−1, 0, 0, 2), (2, 0, 5, 0). Sums of the signs' weight: 4 − 1 + 2 > 0,
    −3 < 0, 5 > 0, 2 > 0. Means of those that agree: (4 + 2) / 2, −3, 5, 2.
    """
    deltas = [vector(4, -3, 1, 0.5), vector(-1, 0.5, 0.5, 2), vector(2, 1, 5, -1)]
    merged = Ties(density=0.5).merge(deltas, shares(None, 3))
    assert torch.allclose(merged, vector(3, -3, 5, 2))
    assert torch.allclose(Ties(0.5, scale=0.3).merge(deltas, shares(None, 3)), 0.3 * merged)


def test_ties_elects_nothing_where_signs_cancel() -> None:
    assert torch.equal(Ties(1.0).merge([vector(1, 2), vector(-1, 2)], HALF), vector(0, 2))


def test_dare_drops_and_rescales() -> None:
    """arXiv:2311.03099 §3: with p = ½ an entry is 0 or twice what it was."""
    delta = drawn(0, 4000)
    thinned = thin(delta, 0.5, seed=7, at=0)
    dropped = thinned == 0
    assert torch.equal(thinned[~dropped], 2 * delta[~dropped])
    assert 0.45 < float(dropped.double().mean()) < 0.55
    assert not torch.equal(dropped, thin(delta, 0.5, seed=7, at=1) == 0)  # independent of the other
    merged = Dare(drop=0.5, scale=0.5, seed=7).merge([delta, delta], HALF)
    both = thin(delta, 0.5, 7, 0) + thin(delta, 0.5, 7, 1)
    assert torch.allclose(merged, 0.5 * both)


# -------------------------------------------------------------- what must hold

seeds = st.integers(0, 10_000)
sizes = st.integers(2, 200)


@given(seeds, sizes, st.floats(0, 1))
def test_trimming_keeps_the_largest_and_changes_none(seed: int, size: int, density: float) -> None:
    delta = drawn(seed, size)
    kept = trim(delta, density)
    left = kept != 0
    assert int(left.sum()) == -int(-density * size // 1)  # the ceiling: no two draws are equal
    assert torch.equal(kept[left], delta[left])
    if left.any() and not left.all():
        assert delta[left].abs().min() >= delta[~left].abs().max()


@given(seeds, sizes, st.sampled_from(sorted(METHODS)))
def test_a_delta_merged_with_itself(seed: int, size: int, name: str) -> None:
    """Nothing of one build is lost by merging two of it; methods that thin out, thinned out."""
    delta = drawn(seed, size)
    told = {"ties": {"density": 1.0}, "dare": {"drop": 0.0}}.get(name, {})
    merged = make_method(name, **told).merge([delta, delta], HALF)
    assert torch.allclose(merged, delta, atol=1e-6)


@given(seeds, sizes, st.permutations(range(3)))
def test_the_order_of_builds_does_not_matter(seed: int, size: int, order: list[int]) -> None:
    deltas = [drawn(seed + k, size) for k in range(3)]
    weights = [0.5, 0.3, 0.2]
    for method in (Weights(), TaskArithmetic(), Ties()):
        one = method.merge(deltas, weights)
        other = method.merge([deltas[k] for k in order], [weights[k] for k in order])
        assert torch.allclose(one, other, atol=1e-6)


@given(seeds, sizes)
def test_ties_never_goes_against_the_elected_sign(seed: int, size: int) -> None:
    deltas = [drawn(seed + k, size) for k in range(3)]
    merged = Ties(density=0.4).merge(deltas, shares(None, 3))
    elected = sum(trim(delta, 0.4) for delta in deltas).sign()  # type: ignore[union-attr]
    assert bool(((merged == 0) | (merged.sign() == elected)).all())
    assert bool((merged.abs() <= torch.stack(deltas).abs().amax(dim=0) + 1e-6).all())


@given(seeds, sizes, st.sampled_from(sorted(METHODS)))
def test_a_merge_is_a_function_of_its_arguments(seed: int, size: int, name: str) -> None:
    deltas = [drawn(seed + k, size) for k in range(2)]
    assert torch.equal(make_method(name).merge(deltas, HALF), make_method(name).merge(deltas, HALF))


def test_dare_keeps_the_expectation() -> None:
    delta = torch.ones(20_000)
    assert float(thin(delta, 0.9, 0, 0).mean()) == pytest.approx(1, abs=0.1)


# -------------------------------------------------------------- bad input


def test_bad_settings_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="known: weights, task-arithmetic, ties, dare"):
        make_method("average")
    with pytest.raises(ConfigError, match="weights has no density"):
        make_method("weights", density=0.3)
    with pytest.raises(ConfigError, match=r"density = 1\.5"):
        make_method("ties", density=1.5)
    with pytest.raises(ConfigError, match="2 weights for 3"):
        shares([1, 2], 3)
    with pytest.raises(ConfigError, match="positive"):
        shares([1, -1], 2)
    assert shares([1, 3], 2) == [0.25, 0.75]

"""Nodes that took fewer local steps count as much, and what they say of it is no lever."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gobelin.server.aggregation import InMemory
from gobelin.server.merge import PREVIOUS, Counted, Merged, Merger, step_factors
from gobelin.server.policy import clip_norm, common_steps
from gobelin.server.reasons import ReductionCode
from gobelin.server.rules import RULES, make_rule

H = 500
VALUES = st.lists(st.floats(-4096, 4096, width=32), min_size=4, max_size=4)
STEPS = st.integers(1, H)


def merge(rows: list[tuple[str, int, Tensor]], rule: str = "mean", cap: float = 1.0) -> Merged:
    counted = [Counted(member, steps) for member, steps, _ in rows]
    state = {PREVIOUS: torch.tensor([1.0, -2.0, 0.0, 3.0])}
    return Merger(make_rule(rule), cap).merge(InMemory([d for *_, d in rows]), counted, state)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), STEPS, st.sampled_from(sorted(RULES)))
def test_equal_steps_change_no_bit(deltas: list[list[float]], steps: int, rule: str) -> None:
    rows = [("abcde"[i], torch.tensor(values)) for i, values in enumerate(deltas)]
    plain = merge([(member, 1, delta) for member, delta in rows], rule)
    same = merge([(member, steps, delta) for member, delta in rows], rule)
    assert torch.equal(plain.delta, same.delta)
    assert plain.members == same.members
    assert same.step_factors == [1.0] * len(rows)


def test_deltas_of_equal_progress_a_step_count_alike() -> None:
    """FedNova: Σ w d/τ · τ_eff; three members who walked 3, 1 and 2 steps of the same length."""
    step = torch.eye(4)
    rows = [("a", 30, 3 * step[0]), ("b", 10, 1 * step[1]), ("c", 20, 2 * step[2])]
    merged = merge(rows)
    assert merged.step_factors == [20 / 30, 2.0, 1.0]
    assert torch.allclose(merged.delta, torch.tensor([2.0, 2.0, 2.0, 0.0]) / 3)
    assert {name: row["norm"] for name, row in merged.members.items()} == pytest.approx(
        {"a": 2.0, "b": 2.0, "c": 2.0}
    )
    assert merged.reduced == {"a": [ReductionCode.NORMALISED]}


def test_a_members_nodes_are_normalised_each_by_its_own_steps() -> None:
    step = torch.ones(4)
    merged = merge([("a", 10, 1 * step), ("a", 40, 4 * step), ("b", 10, 1 * step)])
    assert torch.allclose(merged.delta, step)


# ---------------------------------------------------------------- lies


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(STEPS, min_size=1, max_size=3)))
def test_the_common_number_is_one_that_somebody_took(steps: dict[str, list[int]]) -> None:
    if steps:
        assert common_steps(steps) in {taken for own in steps.values() for taken in own}


@given(st.lists(STEPS, min_size=2, max_size=6), STEPS)
def test_one_liar_does_not_move_the_common_number_past_the_honest(
    honest: list[int], lie: int
) -> None:
    """And of two members, the one who claims more steps never chooses."""
    members = {str(i): [taken] for i, taken in enumerate(honest)}
    assert min(honest) <= common_steps({**members, "liar": [lie]}) <= max(honest)
    assert common_steps({"a": [honest[0]], "liar": [lie]}) <= honest[0]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(STEPS, VALUES), min_size=1, max_size=5),
    st.tuples(STEPS, VALUES),
    st.sampled_from(["mean", "clipped_mean"]),
)
def test_whatever_it_claims_a_member_moves_the_model_by_its_weight_of_the_median_norm(
    honest: list[tuple[int, list[float]]], liar: tuple[int, list[float]], rule: str
) -> None:
    rows = [(f"h{i}", steps, torch.tensor(v)) for i, (steps, v) in enumerate(honest)]
    rows.append(("liar", liar[0], torch.tensor(liar[1])))
    factors = step_factors([Counted(member, steps) for member, steps, _ in rows])
    if set(factors) == {1.0}:
        return
    merged = merge(rows, rule)
    clip = clip_norm([row["norm"] for row in merged.members.values()])
    weight = merged.members["liar"]["weight"]
    silent = [(m, s, torch.zeros(4) if m == "liar" else d) for m, s, d in rows]
    rest = torch.zeros(4, dtype=torch.float64)
    for (_, _, delta), factor in zip(silent, factors, strict=True):
        wide = delta.double() * factor
        norm = float(wide.norm())
        rest += weight * wide * min(1.0, clip / norm if norm else 1.0)
    moved = float((merged.delta.double() - rest).norm())
    assert moved <= weight * clip * (1 + 1e-5) + 1e-6 * (1 + clip)


@pytest.mark.parametrize("claim", [1, 10, H])
def test_a_liar_about_steps_is_no_louder_than_an_honest_member(claim: int) -> None:
    honest = [(f"h{i}", 100, torch.eye(4)[i]) for i in range(3)]
    lie = ("liar", claim, torch.tensor([0.0, 0.0, 0.0, 5.0]))
    merged = merge([*honest, lie])
    assert float(merged.delta[3]) <= 1 / 4 * (1 + 1e-6)
    assert merged.delta[:3].tolist() == pytest.approx([1 / 4] * 3)  # and silences nobody


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), STEPS, VALUES), min_size=1, max_size=6),
    st.sampled_from(sorted(RULES)),
    st.floats(0.01, 0.99),
)
def test_no_number_of_steps_lifts_a_member_over_the_cap(
    rows: list[tuple[str, int, list[float]]], rule: str, cap: float
) -> None:
    merged = merge([(m, s, torch.tensor(v)) for m, s, v in rows], rule, cap)
    assert all(math.isfinite(value) for value in merged.delta.tolist())
    for row in merged.members.values():
        assert 0 <= row["influence"] <= cap
        assert row["weight"] <= cap


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, VALUES), min_size=2, max_size=4), st.integers(2, 5))
def test_splitting_into_nodes_gains_nothing(
    rows: list[tuple[int, list[float]]], nodes: int
) -> None:
    named = [("abcd"[i], steps, torch.tensor(values)) for i, (steps, values) in enumerate(rows)]
    alone, split = merge(named), merge([named[0]] * nodes + named[1:])
    assert torch.equal(alone.delta, split.delta)
    assert alone.members == split.members

"""No input whatever lifts a member over the cap, and nobody gains by owning more nodes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gobelin.server.aggregation import InMemory
from gobelin.server.evidence import GRID
from gobelin.server.merge import PREVIOUS, Counted, Merged, Merger, accumulate
from gobelin.server.policy import (
    PolicyError,
    clip_norm,
    equal_scores,
    influences,
    member_weights,
)
from gobelin.server.reasons import ReductionCode
from gobelin.server.rules import RULES, Mean, make_rule
from tests.server.counting import counted

FINITE = st.floats(0, 1.7e308)  # subnormals and 1e308 among them
SCORES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), FINITE, min_size=1)
CAPS = st.floats(0, 1, exclude_min=True)


@settings(max_examples=1_000)
@given(SCORES, CAPS)
@example({"a": 1.0, "b": 1.0, "c": 1.0}, 0.3)
@example({"a": 1e308, "b": 5e-324}, 0.5)
def test_no_score_lifts_a_weight_over_the_cap(scores: dict[str, float], cap: float) -> None:
    holds_the_cap(scores, cap)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(SCORES, CAPS)
def test_no_score_of_ten_thousand_lifts_a_weight_over_the_cap(
    scores: dict[str, float], cap: float
) -> None:
    holds_the_cap(scores, cap)


def holds_the_cap(scores: dict[str, float], cap: float) -> None:
    weights = member_weights(scores, cap)
    assert set(weights) == set(scores)
    assert all(0 <= weight <= Fraction(cap) for weight in weights.values())
    assert all(float(weight) <= cap for weight in weights.values())
    positive = sum(1 for score in scores.values() if score)
    assert sum(weights.values()) == min(1, positive * Fraction(cap))


@given(SCORES, CAPS, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(scores: dict[str, float], cap: float, random) -> None:
    names = list(scores)
    random.shuffle(names)
    shuffled = member_weights({name: scores[name] for name in names}, cap)
    assert shuffled == member_weights(scores, cap)


@given(SCORES, CAPS, FINITE, st.data())
def test_a_higher_score_never_weighs_less(
    scores: dict[str, float], cap: float, more: float, data: st.DataObject
) -> None:
    before = member_weights(scores, cap)
    ranked = sorted(scores, key=lambda m: scores[m])
    assert all(before[a] <= before[b] for a, b in itertools.pairwise(ranked))
    member = data.draw(st.sampled_from(sorted(scores)))
    raised = {**scores, member: max(scores[member], more)}
    assert member_weights(raised, cap)[member] >= before[member]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-100, 1e100), min_size=1),
    CAPS,
    st.integers(-300, 300),
)
def test_a_common_scale_of_scores_does_not_matter(
    scores: dict[str, float], cap: float, power: int
) -> None:
    scaled = {name: math.ldexp(score, power) for name, score in scores.items()}
    assert member_weights(scaled, cap) == member_weights(scores, cap)


def test_under_the_cap_weights_go_by_the_score() -> None:
    weights = member_weights({"a": 1.0, "b": 2.0, "c": 5.0}, 1.0)
    assert weights == {"a": Fraction(1, 8), "b": Fraction(1, 4), "c": Fraction(5, 8)}
    capped = member_weights({"a": 1.0, "b": 2.0, "c": 5.0}, 0.5)
    assert capped == {"a": Fraction(1, 6), "b": Fraction(1, 3), "c": Fraction(1, 2)}


def test_where_the_cap_is_too_low_for_few_members_the_residual_stays_on_the_base() -> None:
    """The reference policy's bug: three members under a cap of 0.3 got 0.333 each."""
    weights = member_weights(equal_scores(["a", "b", "c"]), 0.25)
    assert list(weights.values()) == [Fraction(1, 4)] * 3
    delta = torch.full((5,), 8.0)
    merged = Merger(Mean(), 0.25).merge(InMemory([delta] * 3), counted("abc"), {})
    assert torch.equal(merged.delta, 0.75 * delta)
    assert merged.facts["residual"] == 0.25


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -1.0, -5e-324])
def test_a_score_that_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(PolicyError, match="score"):
        member_weights({"a": 1.0, "b": score})


@pytest.mark.parametrize("cap", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_cap_that_is_no_cap_is_refused(cap: float) -> None:
    with pytest.raises(PolicyError, match="cap"):
        member_weights({"a": 1.0}, cap)


# ---------------------------------------------------------------- nodes and members

VALUES = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3)


@settings(max_examples=50)
@given(st.lists(VALUES, min_size=2, max_size=4), st.integers(2, 9), st.data())
def test_splitting_into_nodes_gains_nothing(
    deltas: list[list[float]], nodes: int, data: st.DataObject
) -> None:
    """The same deltas from k nodes instead of one: bit by bit the same merge, in every rule."""
    rule = make_rule(data.draw(st.sampled_from(["mean", "median", "geometric_median"])))
    merger = Merger(rule, data.draw(st.sampled_from([1.0, 0.4])))
    names = list("abcd")[: len(deltas)]
    tensors = [torch.tensor(values) for values in deltas]
    alone = merger.merge(InMemory(tensors), counted(names), {})
    split = merger.merge(
        InMemory([tensors[0]] * nodes + tensors[1:]), counted(["a"] * nodes + names[1:]), {}
    )
    assert torch.equal(alone.delta, split.delta)
    assert alone.members == split.members


def test_only_nodes_that_contributed_share_a_members_weight() -> None:
    one, two, three = torch.eye(3)
    merged = Merger().merge(InMemory([one, two, three]), counted("abb"), {})
    assert merged.weights == {"a": Fraction(1, 2), "b": Fraction(1, 2)}
    assert merged.delta.tolist() == [0.5, 0.25, 0.25]


# ---------------------------------------------------------------- functional influence


@settings(max_examples=300)
@given(
    st.lists(
        st.lists(st.floats(-4096, 4096, width=32), min_size=4, max_size=4), min_size=1, max_size=6
    ),
    CAPS.filter(lambda cap: cap < 1),
    st.sampled_from(["mean", "clipped_mean"]),
)
def test_no_delta_lifts_a_members_influence_over_the_cap(
    deltas: list[list[float]], cap: float, rule: str
) -> None:
    names = [str(i) for i in range(len(deltas))]
    tensors = [torch.tensor(values) for values in deltas]
    merged = Merger(make_rule(rule), cap).merge(InMemory(tensors), counted(names), {})
    clip = clip_norm([row["norm"] for row in merged.members.values()])
    for row in merged.members.values():
        assert row["influence"] <= row["weight"] <= cap
    for name in names:  # what the model really moves if this member had not been there
        others = [torch.zeros(4) if n == name else t for n, t in zip(names, tensors, strict=True)]
        moved = merged.delta - without(others, merged, clip)
        assert float(moved.norm()) <= cap * clip * (1 + 1e-5) + 1e-9


def without(deltas: list[torch.Tensor], merged, clip: float) -> torch.Tensor:
    total = torch.zeros(4, dtype=torch.float64)
    for delta, row in zip(deltas, merged.members.values(), strict=True):
        norm = float(delta.double().norm())
        total += row["weight"] * delta.double() * min(1.0, clip / norm if norm else 1.0)
    return total.float()


def test_a_long_delta_has_influence_that_its_weight_does_not_show() -> None:
    loud, quiet = torch.tensor([30.0, 40.0]), torch.tensor([3.0, 4.0])
    free = Merger().merge(InMemory([loud, quiet, quiet]), counted("abc"), {})
    assert free.members["a"]["weight"] == pytest.approx(1 / 3)
    assert free.members["a"]["influence"] == pytest.approx(10 / 12)
    capped = Merger(cap=0.4).merge(InMemory([loud, quiet, quiet]), counted("abc"), {})
    assert capped.members["a"]["influence"] == pytest.approx(1 / 3)


def test_a_member_that_sends_nothing_cannot_stop_the_others() -> None:
    assert clip_norm([0.0, 0.0, 3.0]) == 3.0
    assert clip_norm([1.0, 1e9]) == 1.0  # of two, the larger does not choose
    assert clip_norm([0.0, 0.0]) == 0.0
    assert influences([Fraction(1, 2)] * 2, [0.0, 0.0]) == [0.0, 0.0]
    assert influences([Fraction(1, 2)] * 2, [0.0, 0.0], 0.0) == [0.0, 0.0]


def test_influence_adds_up_over_rounds_and_is_not_lost_by_staying_away() -> None:
    first = accumulate({}, {"a": {"influence": 0.5}, "b": {"influence": 0.5}})
    second = accumulate(first, {"a": {"influence": 1.0}})
    assert second == {"a": 1.5, "b": 0.5}


# ---------------------------------------------------------------- every rule, equal or by evidence

ANY = st.floats(-4096, 4096, width=32)
SCORED = st.lists(
    st.tuples(
        st.sampled_from("abcde"),  # the member
        st.integers(-(2**40), 2**40).map(lambda steps: steps * GRID),  # its score
        st.lists(ANY, min_size=3, max_size=3),  # its delta
    ),
    min_size=1,
    max_size=7,
)


def merge_scored(
    rows: list[tuple[str, float, list[float]]], rule: str, cap: float, by_evidence: bool
) -> Merged:
    deltas = InMemory([torch.tensor(values) for _, _, values in rows])
    counted = [Counted(member, score=score) for member, score, _ in rows]
    state = {PREVIOUS: torch.tensor([1.0, -2.0, 0.0])}
    return Merger(make_rule(rule), cap, by_evidence).merge(deltas, counted, state)


@settings(max_examples=300, deadline=None)
@given(SCORED, st.sampled_from(sorted(RULES)), CAPS.filter(lambda c: c < 1), st.booleans())
def test_no_rule_and_no_evidence_lifts_a_member_over_the_cap(
    rows: list[tuple[str, float, list[float]]], rule: str, cap: float, by_evidence: bool
) -> None:
    merged = merge_scored(rows, rule, cap, by_evidence)
    for row in merged.members.values():
        assert 0 <= row["weight"] <= cap
        assert 0 <= row["influence"] <= cap
    assert sum(merged.weights.values()) <= 1


def test_a_rule_that_favours_one_member_still_holds_it_under_the_cap() -> None:
    """Of three deltas on a line, the geometric median is the middle one, whatever it weighs."""
    line = [torch.tensor([x, 0.0, 1.0]) for x in (-1.0, 0.0, 1.0)]
    rule = make_rule("geometric_median")
    free = Merger(rule).merge(InMemory(line), counted("abc"), {})
    assert free.members["b"]["influence"] > 0.9
    capped = Merger(rule, 0.4).merge(InMemory(line), counted("abc"), {})
    assert capped.members["b"]["influence"] <= 0.4
    assert float(capped.delta.norm()) <= 0.5 * float(free.delta.norm())


@settings(max_examples=200, deadline=None)
@given(SCORED, st.sampled_from(sorted(RULES)), CAPS, st.booleans(), st.data())
def test_a_nodes_place_in_the_list_does_not_matter(
    rows: list[tuple[str, float, list[float]]],
    rule: str,
    cap: float,
    by_evidence: bool,
    data: st.DataObject,
) -> None:
    """Nodes of different members, in any order: the same bits."""
    single = list({row[0]: row for row in rows}.values())
    merged = merge_scored(single, rule, cap, by_evidence)
    moved = merge_scored(data.draw(st.permutations(single)), rule, cap, by_evidence)
    assert torch.equal(merged.delta, moved.delta)
    assert merged.members == moved.members


@settings(max_examples=100, deadline=None)
@given(SCORED, st.integers(2, 5), st.sampled_from(sorted(RULES)), st.sampled_from([1.0, 0.4]))
def test_splitting_gains_nothing_by_evidence_either(
    rows: list[tuple[str, float, list[float]]], nodes: int, rule: str, cap: float
) -> None:
    first, *others = list({row[0]: row for row in rows}.values())
    alone = merge_scored([first, *others], rule, cap, True)
    split = merge_scored([first] * nodes + others, rule, cap, True)
    assert torch.equal(alone.delta, split.delta)
    assert alone.members == split.members


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_evidence_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(PolicyError, match="member a"):
        merge_scored([("a", score, [1.0] * 3), ("b", 1.0, [1.0] * 3)], "mean", 1.0, True)


def test_weights_by_evidence_need_evidence() -> None:
    with pytest.raises(PolicyError, match="has no score"):
        Merger(by_evidence=True).merge(InMemory([torch.ones(2)]), counted("a"), {})


def test_what_a_member_lost_by_policy_has_a_reason() -> None:
    rows = [
        (m, s, [n, 0.0, 0.0]) for m, s, n in zip("abcd", (0.1, 1, 1, 9), (1, 1, 1, 5), strict=True)
    ]
    merged = merge_scored(rows, "mean", 0.3, True)
    assert merged.reduced == {
        "a": [ReductionCode.FLOOR],
        "d": [ReductionCode.CEILING, ReductionCode.CAPPED, ReductionCode.CLIPPED],
    }
    assert merged.weights["a"] == Fraction(1, 2) * merged.weights["b"]
    assert merge_scored(rows, "mean", 1.0, False).reduced == {}

"""Members weigh the same, whatever they own or claim."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.server.aggregation import InMemory
from gobelin.server.merge import Merged, Merger
from gobelin.server.policy import member_weights
from tests.server.counting import counted


def merge_of(nodes: dict[str, int]) -> Merged:
    """A merge with so many nodes for each member, every node with a delta of its own."""
    owners = [member for member, own in nodes.items() for _ in range(own)]
    generator = torch.Generator().manual_seed(0)
    deltas = [torch.randn(7, generator=generator) for _ in owners]
    return Merger().merge(InMemory(deltas), counted(owners), {})


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1))
def test_a_member_with_many_nodes_weighs_as_one_with_one(nodes: dict[str, int]) -> None:
    merged = merge_of(nodes)
    assert merged.weights == dict.fromkeys(nodes, Fraction(1, len(nodes)))
    assert merged.facts["residual"] == 0


def test_one_node_more_takes_nothing_from_another_member() -> None:
    before, after = merge_of({"north": 1, "south": 1}), merge_of({"north": 1, "south": 4})
    assert before.weights == after.weights
    assert sum(after.weights.values()) == 1


def test_nobody_weighs_nothing() -> None:
    assert member_weights({}) == {}

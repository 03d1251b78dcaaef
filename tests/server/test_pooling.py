"""Pooled moments: one voice a member, the same bits in any order, nothing of who declines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gobelin.server.pooling import pool_members
from gobelin.shared.objective import Moments

DIM = 4
NODES = {"n1": "north", "s1": "south", "s2": "south", "w1": "west"}


def moments(node: str, samples: int = 30) -> Moments:
    seed = sorted(NODES).index(node)
    z = torch.randn(samples, DIM, generator=torch.Generator().manual_seed(seed))
    return Moments.of(z * (1 + seed) + seed)


def pooled(*nodes: str) -> Moments:
    found = pool_members({node: moments(node) for node in nodes}, NODES)
    assert found is not None
    return found


@given(st.permutations(sorted(NODES)))
def test_the_order_of_arrival_leaves_no_trace(order: list[str]) -> None:
    assert pooled(*order).to_bytes() == pooled(*NODES).to_bytes()


def test_a_member_with_two_nodes_is_one_voice_of_their_mean() -> None:
    found, own = pooled("n1", "s1", "s2"), {node: moments(node) for node in NODES}
    south = (own["s1"].second + own["s2"].second) / 2
    torch.testing.assert_close(found.second, (own["n1"].second + south) / 2)


def test_who_declines_weighs_nothing() -> None:
    mean = (moments("n1").mean + moments("w1").mean) / 2
    torch.testing.assert_close(pooled("n1", "w1").mean, mean)


@pytest.mark.parametrize("nodes", [(), ("n1",), ("s1", "s2")])
def test_the_moments_of_one_member_are_passed_on_to_nobody(nodes: tuple[str, ...]) -> None:
    assert pool_members({node: moments(node) for node in nodes}, NODES) is None

"""Members weigh the same, whatever they own or claim."""

from __future__ import annotations

from fractions import Fraction
from itertools import count

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.server.policy import equal_member_weights
from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.keys import public_pem

_numbers = count(1000)
KEYS = [
    public_pem(ec.derive_private_key(next(_numbers), ec.SECP384R1()).public_key()).decode()
    for _ in range(20)
]


def roster_of(nodes: dict[str, int]) -> Roster:
    """A roster with so many nodes for each member."""
    keys = iter(KEYS)
    return Roster(
        tuple(NodeEntry(m, f"{m}-{i}", next(keys)) for m, n in nodes.items() for i in range(n))
    )


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1))
def test_a_member_with_many_nodes_weighs_as_one_with_one(nodes: dict[str, int]) -> None:
    roster = roster_of(nodes)
    weights = equal_member_weights(roster)
    assert set(weights) == set(roster.by_id())
    for member, own in nodes.items():
        shares = [weights[node.id] for node in roster.nodes if node.member == member]
        assert shares == [Fraction(1, own)] * own


def test_one_node_more_takes_nothing_from_another_member() -> None:
    before = equal_member_weights(roster_of({"north": 1, "south": 1}))
    after = equal_member_weights(roster_of({"north": 1, "south": 4}))
    north = roster_of({"north": 1}).nodes[0].id
    assert before[north] == after[north] == 1
    assert sum(after.values()) == 2


def test_nobody_weighs_nothing() -> None:
    assert equal_member_weights(Roster(())) == {}

"""Contribution policy: who weighs what. Members weigh the same, whatever they say of themselves."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from gobelin.server.roster import Roster


def equal_member_weights(roster: Roster) -> dict[str, Fraction]:
    """Weight of every node (by id): 1 per member, split evenly over the member's nodes.

    A member that runs several nodes gains nothing by it.
    """
    nodes = Counter(node.member for node in roster.nodes)
    return {node.id: Fraction(1, nodes[node.member]) for node in roster.nodes}

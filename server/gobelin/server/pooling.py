"""Pooling: the moments that a round's nodes sent, as those of all their data together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from gobelin.shared.objective import Moments


def pool_members(moments: Mapping[str, Moments], owners: Mapping[str, str]) -> Moments | None:
    """Every member's nodes' mean, and of these the mean, by node id; None where all declined.

    In any order the same bits. A member with many nodes is one voice, as in aggregation; one that
    declines weighs nothing. `owners` names the member of every node.
    """
    nodes = Counter(owners[node] for node in moments)
    if not nodes:
        return None
    return Moments.pool((own, Fraction(1, nodes[owners[node]])) for node, own in moments.items())

"""Pooling: the moments that a round's nodes sent, as those of all their data together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.objective import Moments


def pool_members(moments: Mapping[str, Moments], owners: Mapping[str, str]) -> Moments | None:
    """Every member's nodes' mean, and of these the mean, by node id, in any order the same bits.

    A member with many nodes is one voice, as in aggregation; one that declines weighs nothing.
    None for fewer than two members: one member's moments would reach all others as they are.
    `owners` names the member of every node.
    """
    nodes = Counter(owners[node] for node in moments)
    if len(nodes) < 2:
        return None
    return Moments.pool((own, Fraction(1, nodes[owners[node]])) for node, own in moments.items())


def tensors_of(moments: Moments) -> dict[str, Tensor]:
    """As a checkpoint keeps them."""
    samples = torch.tensor(moments.samples)
    return {"mean": moments.mean, "second": moments.second, "samples": samples}


def of_tensors(tensors: Mapping[str, Tensor]) -> Moments:
    """What `tensors_of` kept; raises MomentsError on other numbers."""
    return Moments(tensors["mean"], tensors["second"], int(tensors["samples"]))

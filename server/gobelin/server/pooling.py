"""Pooling: the moments that a round's nodes sent, as those of all their data together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.objective import Moments
from gobelin.shared.objective.pools import Pools


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


def pool_modalities(
    moments: Mapping[str, Moments],
    owners: Mapping[str, str],
    told: Mapping[str, str],
    modalities: Collection[str],
) -> Pools | None:
    """The pools of all modalities, None where none has one; `told` names that of every node."""
    found = {
        name: pool_members({n: own for n, own in moments.items() if told[n] == name}, owners)
        for name in modalities
    }
    pooled = {name: pool for name, pool in found.items() if pool is not None}
    return Pools(modalities, pooled) if pooled else None


def tensors_of(pools: Pools) -> dict[str, Tensor]:
    """As a checkpoint keeps them."""
    return {
        f"{name}.{key}" if name else key: tensor
        for name, own in pools.pooled.items()
        for key, tensor in _tensors(own).items()
    }


def of_tensors(tensors: Mapping[str, Tensor], modalities: Collection[str]) -> Pools:
    """What `tensors_of` kept; raises MomentsError on other numbers."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        parts.setdefault(name, {})[part] = tensor
    pooled = {
        name: Moments(own["mean"], own["second"], int(own["samples"]))
        for name, own in parts.items()
    }
    return Pools(modalities, pooled)


def _tensors(moments: Moments) -> dict[str, Tensor]:
    samples = torch.tensor(moments.samples)
    return {"mean": moments.mean, "second": moments.second, "samples": samples}

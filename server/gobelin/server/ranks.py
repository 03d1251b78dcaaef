"""Ranks: each coordinate's n values in order, by a network of comparisons between whole rows.

A library's sort goes down n values at a time; a network takes rows of thousands of coordinates
through the same few comparisons, elementwise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from gobelin.server.scratch import scratch


def in_order(rows: Sequence[Tensor]) -> list[Tensor]:
    """The values of n × (s,) fp32, coordinate by coordinate from the least to the greatest.

    They are this thread's, until it asks again.
    """
    shape = (len(rows) + 1, len(rows[0]))
    *ranks, spare = scratch("ranks", shape, torch.float32)
    for rank, row in zip(ranks, rows, strict=True):
        rank.copy_(row)
    for low, high in network(len(rows)):
        torch.minimum(ranks[low], ranks[high], out=spare)
        torch.maximum(ranks[low], ranks[high], out=ranks[high])
        ranks[low], spare = spare, ranks[low]
    return ranks


@functools.cache
def network(count: int) -> list[tuple[int, int]]:
    """Pairs of places that, compared and exchanged one after the other, put `count` in order.

    Batcher's merge exchange (Knuth, The Art of Computer Programming, 5.2.2 M).
    """
    pairs = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    block = top
    while block and count > 1:
        reach, offset, distance = top, 0, block
        while True:
            pairs += [(i, i + distance) for i in range(count - distance) if i & block == offset]
            if reach == block:
                break
            distance, reach, offset = reach - block, reach // 2, block
        block //= 2
    return pairs

"""Lengths and angles of deltas: fp64, in one summation order, so the same bits on every machine.

A product of two fp32 numbers is exact in fp64; the products of a piece are added in a fixed
binary tree of elementwise additions, and the pieces' sums by math.fsum, which rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

PIECE = 1 << 15  # scalars looked at at once: they stay in the processor's cache
TURN = 16  # pieces a thread takes at a time

T = TypeVar("T")


class Deltas(Protocol):
    """Deltas of P parameters in a fixed order, read piece by piece from wherever they lie."""

    @property
    def size(self) -> int:
        """Number of parameters P."""
        ...

    def __len__(self) -> int: ...

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one delta: fp32 (end − start,), not to be written to."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Deltas that lie in memory as tensors (P,)."""

    values: Sequence[Tensor]

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return len(self.values[0])

    def __len__(self) -> int:
        return len(self.values)

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """A view."""
        return self.values[index][start:end]


def map_pieces(size: int, work: Callable[[int, int], T]) -> Iterator[T]:
    """`work(start, end)` for every piece of P parameters, in order, on torch's threads."""
    starts = range(0, size, PIECE)
    turns = [starts[i : i + TURN] for i in range(0, len(starts), TURN)]

    def turn(own: range) -> list[T]:
        return [work(start, min(start + PIECE, size)) for start in own]

    if len(turns) <= 1:  # not worth a thread
        yield from (found for own in turns for found in turn(own))
        return
    with ThreadPoolExecutor(torch.get_num_threads(), "pieces") as pool:
        for found in pool.map(turn, turns):
            yield from found


def norms(deltas: Deltas) -> list[float]:
    """Euclidean norm of each delta."""

    def squares(start: int, end: int) -> list[float]:
        rows = [deltas.piece(i, start, end).double() for i in range(len(deltas))]
        return [float(tree_sum(row.mul_(row))) for row in rows]

    columns = zip(*map_pieces(deltas.size, squares), strict=True)
    return [math.sqrt(math.fsum(column)) for column in columns] or [0.0] * len(deltas)


def tree_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension of (…, s), in place, in a fixed binary tree: (…)."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        values[..., : width - half].add_(values[..., half:width])
        width = half
    return values[..., 0]


@dataclass(frozen=True)
class Geometry:
    """What rules may ask of n deltas as a whole; inner products are computed when asked for."""

    deltas: Deltas

    def __len__(self) -> int:
        return len(self.deltas)

    @cached_property
    def gram(self) -> list[list[float]]:
        """Inner products ⟨dᵢ, dⱼ⟩, (n, n)."""
        count = len(self.deltas)

        def products(start: int, end: int) -> list[list[float]]:
            rows = [self.deltas.piece(i, start, end) for i in range(count)]
            piece = torch.stack(rows).double()  # (n, s)
            return [tree_sum(piece[i:] * piece[i]).tolist() for i in range(count)]

        pieces = list(map_pieces(self.deltas.size, products))
        gram = [[0.0] * count for _ in range(count)]
        for i in range(count):
            for j in range(i, count):
                gram[i][j] = gram[j][i] = math.fsum(piece[i][j - i] for piece in pieces)
        return gram

    def distance(self, index: int, mix: Sequence[float]) -> float:
        """‖dᵢ − Σⱼ mixⱼ dⱼ‖, in any order of the deltas the same bits."""
        way = [(1.0 if j == index else 0.0) - share for j, share in enumerate(mix)]
        square = math.fsum(
            a * b * self.gram[i][j] for i, a in enumerate(way) if a for j, b in enumerate(way) if b
        )
        return math.sqrt(max(0.0, square))

    def between(self, i: int, j: int) -> float:
        """‖dᵢ − dⱼ‖."""
        return math.sqrt(
            max(0.0, math.fsum([self.gram[i][i], self.gram[j][j], -2 * self.gram[i][j]]))
        )

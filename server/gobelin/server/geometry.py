"""Lengths and angles of deltas: fp64, in one summation order, so the same bits on every machine.

A product of two fp32 numbers is exact in fp64; the products of a turn's pieces are added
elementwise, in a fixed order, and the turns' sums by math.fsum, which rounds once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gobelin.server.scratch import scratch
from gobelin.shared.turns import take_turns

PIECE = 1 << 18  # scalars of one delta looked at at once, at most: longer rows are read no faster
ROWS = 1 << 21  # scalars of all deltas looked at at once, where that leaves pieces of LEAST
LEAST = 1 << 15
TURN = 1 << 20  # scalars of one delta that a thread takes at a time
PRODUCTS = 1 << 18  # scalars of all deltas whose products are taken at once
KEPT = 1 << 10  # columns of products that are added up when a turn is over

T = TypeVar("T")


class Deltas(Protocol):
    """Deltas of P parameters in a fixed order, read piece by piece from wherever they lie."""

    @property
    def size(self) -> int:
        """Number of parameters P."""
        ...

    def __len__(self) -> int: ...

    def peak(self, index: int) -> float:
        """What no |δ| of one delta passes."""
        ...

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """Parameters start … end of one delta: fp32 (end − start,), not to be written to.

        Good until the thread asks for another piece of the same delta.
        """
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

    @cached_property
    def peaks(self) -> list[float]:
        """Largest |δ| of each delta."""
        return [max(abs(float(end)) for end in torch.aminmax(values)) for values in self.values]

    def peak(self, index: int) -> float:
        """The largest |δ| of one delta."""
        return self.peaks[index]

    def piece(self, index: int, start: int, end: int) -> Tensor:
        """A view."""
        return self.values[index][start:end]


def map_turns(size: int, work: Callable[[int, int], T]) -> Iterator[T]:
    """`work(start, end)` for every turn of P parameters, in order, on torch's threads."""
    starts = range(0, size, TURN)
    yield from take_turns(work, starts, [min(start + TURN, size) for start in starts])


def pieces(deltas: Deltas, start: int, end: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """A turn's pieces: where each lies, and its rows, one a delta."""
    length = _length(len(deltas), ROWS, LEAST, PIECE)
    for first in range(start, end, length):
        last = min(first + length, end)
        yield slice(first, last), [deltas.piece(i, first, last) for i in range(len(deltas))]


def _length(count: int, together: int, least: int, most: int) -> int:
    """A power of two from `least` to `most`, so that `count` rows hold about `together` scalars."""
    return max(least, min(most, 1 << (together // count).bit_length() - 1))


def norms(deltas: Deltas) -> list[float]:
    """Euclidean norm of each delta."""

    def squares(start: int, end: int) -> list[float]:
        return [_square(deltas, index, start, end) for index in range(len(deltas))]

    columns = zip(*map_turns(deltas.size, squares), strict=True)
    return [math.sqrt(math.fsum(column)) for column in columns] or [0.0] * len(deltas)


def _square(deltas: Deltas, index: int, start: int, end: int) -> float:
    """‖·‖² of one delta's parameters start … end."""
    length = _length(len(deltas), ROWS, LEAST, PIECE)
    sums = scratch("sums", (min(length, end - start),), torch.float64).zero_()
    for first in range(start, end, length):
        piece = deltas.piece(index, first, min(first + length, end))
        exact = scratch("exact", (len(piece),), torch.float64).copy_(piece)
        sums[: len(piece)].addcmul_(exact, exact)
    return float(tree_sum(sums))


def tree_sum(values: Tensor, left: int = 1) -> Tensor:
    """Sums over the last dimension of (…, s), in place, in a fixed binary tree: (…, left).

    s is left times a power of two, or left is 1.
    """
    width = values.shape[-1]
    while width > left:
        half = (width + 1) // 2
        values[..., : width - half].add_(values[..., half:width])
        width = half
    return values[..., :width]


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
        turns = list(map_turns(self.deltas.size, self._products))
        gram = [[0.0] * count for _ in range(count)]
        for place, (i, j) in enumerate(combinations_with_replacement(range(count), 2)):
            gram[i][j] = gram[j][i] = math.fsum(turn[place] for turn in turns)
        return gram

    def _products(self, start: int, end: int) -> list[float]:
        """Inner products of all pairs i ≤ j of the deltas' parameters start … end, in order."""
        count = len(self.deltas)
        sums = scratch("sums", (count * (count + 1) // 2, KEPT), torch.float64).zero_()
        width = _length(count, PRODUCTS, KEPT, LEAST)
        exact = scratch("exact", (count, width), torch.float64)
        for _, rows in pieces(self.deltas, start, end):
            for first in range(0, len(rows[0]), width):
                for place, row in zip(exact, rows, strict=True):
                    part = row[first : first + width]
                    place[: len(part)].copy_(part)
                    place[len(part) :].zero_()
                self._add_products(exact, sums)
        found: list[float] = tree_sum(sums)[:, 0].tolist()
        return found

    @staticmethod
    def _add_products(exact: Tensor, sums: Tensor) -> None:
        """Add the products of all pairs of (n, s) to their `KEPT` sums each."""
        count, size = exact.shape
        done = 0
        for i in range(count):
            product = scratch("product", (count - i, size), torch.float64)
            torch.mul(exact[i:], exact[i], out=product)
            sums[done : done + count - i] += tree_sum(product, KEPT)
            done += count - i

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

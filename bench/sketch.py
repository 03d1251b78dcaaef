"""Sketches: what nodes' data look like along some slices, so that SIGReg can test all of them.

Private data makes SIGReg a test per node: each node stretches its own part of the world over the
whole Gaussian, and averaging then blurs. But an empirical characteristic function is linear in the
distribution, so the one of all data is the mean of the nodes' own. Each node sketches the round's
common base on its data, under slices all nodes share; training, it tests

    C = C_own(live batch) + [C_global − C_own](base),   S alike,

a control variate: at the base its expectation is the global C, and away from it C follows the
node's own move. (SCAFFOLD, arXiv:1910.06378, corrects gradients in the same way.)

Rounds exchange moments (`gobelin.shared.objective.moments`), which need fewer numbers and any
slices; sketches are what studies compare them with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.errors import NotFiniteError, ShapeError
from gobelin.shared.objective.moments import exact_mean
from gobelin.shared.objective.sigreg import characteristic, directions
from gobelin.shared.seeds import generator_of


@dataclass(frozen=True, eq=False)
class Sketch:
    """Empirical characteristic function of projections, M slices at K knots.

    M · K · 2 numbers that a mean of cosines and sines bounds by 1. One sample moves each of them
    by at most 2 / samples (an image is as many samples as it has views).
    """

    cosine: Tensor  # (M, K) fp32, mean over the samples of cos(t_k ⟨a_m, z⟩)
    sine: Tensor  # (M, K) fp32
    samples: int  # the projections they are a mean of
    seed: int  # of the slices
    t_max: float

    def __post_init__(self) -> None:
        if self.cosine.ndim != 2 or self.cosine.shape != self.sine.shape:
            found = f"{tuple(self.cosine.shape)} and {tuple(self.sine.shape)}"
            raise ShapeError(f"a sketch is cosines and sines (M, K), not {found}")
        if self.samples < 1:
            raise ShapeError("a sketch of no samples", "give the node data")
        for part in (self.cosine, self.sine):
            if part.dtype != torch.float32 or not bool((part.abs() <= 1).all()):
                raise NotFiniteError("a sketch holds fp32 numbers in [−1, 1] and no others")

    @classmethod
    @torch.no_grad()
    def of(cls, z: Tensor, seed: int, slices: int, knots: int, t_max: float) -> Sketch:
        """The sketch of projections z (N, D) under the `slices` directions of `seed`."""
        x = z.float() @ directions(seed, z.shape[-1], slices, z.device)
        cosine, sine = characteristic(x, knots, t_max)
        # The recurrence may round a hair past the bound.
        return cls(cosine.cpu().clamp(-1, 1), sine.cpu().clamp(-1, 1), len(z), seed, t_max)

    @classmethod
    def mean(cls, sketches: Iterable[tuple[Sketch, Fraction]]) -> Sketch:
        """The sketch of the nodes' data together, by (sketch, weight ≥ 0) in any order.

        Summed in fixed point, so the order leaves no trace. A node that declines has no sketch or
        weight zero. Raises ShapeError on sketches of different slices, and when all weigh nothing.
        """
        rows = [(sketch, weight) for sketch, weight in sketches if weight > 0]
        if not rows:
            raise ShapeError("the mean of no sketches", "let at least one node sketch")
        first = rows[0][0]
        for sketch, _ in rows:
            first.require_same_slices(sketch)
        cosine = exact_mean([(sketch.cosine, weight) for sketch, weight in rows])
        sine = exact_mean([(sketch.sine, weight) for sketch, weight in rows])
        samples = sum(sketch.samples for sketch, _ in rows)
        return cls(cosine.clamp(-1, 1), sine.clamp(-1, 1), samples, first.seed, first.t_max)

    def require_same_slices(self, other: Sketch) -> None:
        """Raise ShapeError unless both were taken under the same slices and knots."""
        ours, theirs = ((s.seed, s.t_max, tuple(s.cosine.shape)) for s in (self, other))
        if ours != theirs:
            raise ShapeError(
                f"sketches of different slices: seed, t_max, (M, K) are {ours} and {theirs}",
                "sketch under the round's slices",
            )

    def offset_from(self, own: Sketch) -> SketchOffset:
        """What this sketch, the global one, adds to a node's own characteristic function."""
        self.require_same_slices(own)
        return SketchOffset(self.cosine - own.cosine, self.sine - own.sine, self.seed, self.t_max)


@dataclass(frozen=True, eq=False)
class SketchOffset:
    """Global − own: what `sigreg` adds to a live batch's mean cosines and sines, as a constant."""

    cosine: Tensor  # (M, K)
    sine: Tensor  # (M, K)
    seed: int  # of the M slices
    t_max: float

    def draw(
        self,
        seed: int,
        dim: int,
        slices: int,
        knots: int,
        t_max: float,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """At most `slices` of the sketch's directions (dim, m) and their offsets, each (m, K).

        A sketch of more slices than a step tests lets every step draw others: the encoder then
        has no few directions to please. Raises ShapeError at other knots than the sketch's.
        """
        if (self.cosine.shape[1], self.t_max) != (knots, t_max):
            raise ShapeError("the sketch was taken at other knots", "use the same recipe")
        count = len(self.cosine)
        order = torch.randperm(count, generator=generator_of(seed, "pick"))[:slices]
        drawn = directions(self.seed, dim, count)[:, order].to(device)
        return drawn, (self.cosine[order].to(device), self.sine[order].to(device))

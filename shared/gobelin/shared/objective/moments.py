"""Moments: mean and covariance of a node's embeddings, from which any slice's offset follows.

They correct the test under every slice, to the order of a Gaussian: the offset (see `offset`) is
the characteristic function of the Gaussian with all nodes' moments less that of the one with the
node's own. Slices can be fresh every step, the egress is D + D (D + 1) / 2 numbers, and the mean
of nodes' moments is the moments of their data together (exactly, unlike their covariances): they
add up like a parameter vector does.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gobelin.shared.errors import MomentsError, ShapeError
from gobelin.shared.objective.sigreg import directions
from gobelin.shared.vector import bytes_of_tensor, tensor_of_bytes

RADII = 3.0  # projections are cut to a length of RADII · √D; a healthy one has about √D
SAMPLES = struct.Struct("<Q")  # how bytes begin
MOST = (1 << 63) - 1  # samples
ROUNDING = 1e-6  # of the trace: what fp32 may take from the least eigenvalue of a covariance
POINT = 1e-6  # a trace below it is that of one point: nothing but rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Raw first and second moments of projections cut to the length R = RADII · √D.

    They depend on data and leave the node: a declared egress. The cut bounds them,
    ‖mean‖² ≤ trace(second) ≤ R², and what one sample changes in them, see `sensitivity`.
    """

    mean: Tensor  # (D,) fp32
    second: Tensor  # (D, D) fp32, mean of z zᵀ
    samples: int  # one sample weighs at most 1 / samples in them

    def __post_init__(self) -> None:
        dim = self.mean.numel()
        if not dim or self.mean.shape != (dim,) or self.second.shape != (dim, dim):
            raise MomentsError("moments are a mean (D,) and a second moment (D, D)")
        if not 1 <= self.samples <= MOST:
            raise MomentsError(f"moments of {self.samples} samples", "give the node data")
        if not bool(torch.isfinite(self.second).all() and torch.isfinite(self.mean).all()):
            raise MomentsError("moments hold NaN or infinity", "lower the learning rate")
        if not torch.equal(self.second, self.second.T):
            raise MomentsError("the second moment is not symmetric")

    @classmethod
    @torch.no_grad()
    def of(cls, z: Tensor) -> Moments:
        """The moments of projections z (N, D)."""
        wide = z.cpu().double()
        lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        wide = wide * (RADII * z.shape[1] ** 0.5 / lengths).clamp(max=1)
        second = (wide.T @ wide / len(z)).float()
        return cls(wide.mean(dim=0).float(), _symmetric(_triangle(second)), len(z))

    @classmethod
    def pool(cls, moments: Iterable[tuple[Moments, Fraction]]) -> Moments:
        """The moments of the nodes' data together, by (moments, weight ≥ 0) in any order.

        Summed in fixed point, so the order leaves no trace. No moments that `from_bytes` gives
        have a pool that raises. Raises ShapeError when all weigh nothing.
        """
        rows = [(own, weight) for own, weight in moments if weight > 0]
        mean = exact_mean([(own.mean, weight) for own, weight in rows])
        second = exact_mean([(own.second, weight) for own, weight in rows])
        total = sum((weight for _, weight in rows), Fraction(0))
        samples = min(own.samples * total / weight for own, weight in rows)
        return cls(mean, second, min(int(samples), MOST))

    @property
    def sensitivity(self) -> float:
        """The most that one other sample moves (mean, second) by, in their Euclidean norm.

        √2 (R² + ½) / samples: the distance of (z, zzᵀ) and (z', z'z'ᵀ) is largest at the length R
        and ⟨z, z'⟩ = −½. An image is as many samples as it has views; where the projector's norm
        is over the batch, it touches all samples of its batch.
        """
        return float(2**0.5 * (RADII**2 * len(self.mean) + 0.5) / self.samples)

    def to_bytes(self) -> bytes:
        """Canonical bytes: samples (uint64), mean, upper triangle by rows (fp32), little-endian."""
        numbers = torch.cat([self.mean, _triangle(self.second)])
        return SAMPLES.pack(self.samples) + bytes(bytes_of_tensor(numbers))

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Moments:
        """Parse canonical bytes of moments of D = `dim`, from whomever.

        Raises MomentsError on anything else, and on numbers that are no moments of any data.
        """
        if len(data) != size_of(dim):
            raise MomentsError(f"moments of {len(data)} bytes, at D = {dim} it is {size_of(dim)}")
        (samples,) = SAMPLES.unpack_from(data)
        numbers = tensor_of_bytes(data[SAMPLES.size :])
        moments = cls(numbers[:dim], _symmetric(numbers[dim:]), samples)
        moments._require_of_data()
        return moments

    def _require_of_data(self) -> None:
        """Raise MomentsError on a trace beyond R², and where the covariance is none."""
        trace, bound = float(self.second.trace()), RADII**2 * len(self.mean)
        if trace > bound * 1.001:  # for rounding
            raise MomentsError(f"the second moment's trace is {trace:.3g}, at most {bound:.3g}")
        mean = self.mean.double()
        covariance = self.second.double() - mean.outer(mean)
        covariance.diagonal().add_(ROUNDING * max(trace, POINT))
        if torch.linalg.cholesky_ex(covariance).info:
            raise MomentsError("the second moment less the mean's square is no covariance")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return digest_of(self.to_bytes())

    def offset_from(self, own: Moments) -> MomentOffset:
        """What these moments, the global ones, add to a node's own characteristic function."""
        return MomentOffset(self, own)

    def characteristic(self, slices: Tensor, knots: int, t_max: float) -> tuple[Tensor, Tensor]:
        """C and S (M, K) under slices (D, M) of the Gaussian with these moments.

        exp(i t μ_m − t² σ²_m / 2) with μ_m = ⟨a_m, mean⟩ and σ²_m = a_mᵀ cov a_m.
        """
        t = torch.linspace(0, t_max, knots, device=slices.device)
        second = self.second.to(slices.device)
        middle = self.mean.to(slices.device) @ slices  # (M,)
        variance = ((slices * (second @ slices)).sum(dim=0) - middle.square()).clamp(min=0)
        size = torch.exp(-t.square() * variance[:, None] / 2)
        angle = t * middle[:, None]
        return size * angle.cos(), size * angle.sin()


@dataclass(frozen=True, eq=False)
class MomentOffset:
    """Global − own, for whatever slices a step draws."""

    pooled: Moments
    own: Moments

    def draw(
        self,
        seed: int,
        dim: int,
        slices: int,
        knots: int,
        t_max: float,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Fresh directions (dim, M) of a step's seed, and their offsets, each (M, K)."""
        drawn = directions(seed, dim, slices, device)
        cosine, sine = self.pooled.characteristic(drawn, knots, t_max)
        own_cosine, own_sine = self.own.characteristic(drawn, knots, t_max)
        return drawn, (cosine - own_cosine, sine - own_sine)


def exact_mean(weighted: Sequence[tuple[Tensor, Fraction]]) -> Tensor:
    """Σ wᵢ xᵢ / Σ wᵢ in fixed point (2⁻⁴⁰): the same bits in any order; fp32.

    Raises ShapeError when there is nothing to average.
    """
    total = sum((weight for _, weight in weighted), Fraction(0))
    if not total:
        raise ShapeError("the mean of nothing", "let at least one node weigh something")
    whole = torch.zeros_like(weighted[0][0], dtype=torch.int64)
    for values, weight in weighted:
        whole += torch.round(values.double() * (float(weight / total) * 2.0**40)).long()
    return (whole.double() / 2.0**40).float()


def size_of(dim: int) -> int:
    """Bytes of moments of D = `dim`."""
    return SAMPLES.size + 4 * (dim + dim * (dim + 1) // 2)


def digest_of(data: bytes) -> str:
    """How messages name moments by their canonical bytes; the empty string for none."""
    return hashlib.sha256(data).hexdigest() if data else ""


def _triangle(matrix: Tensor) -> Tensor:
    """The upper triangle of (D, D) by rows: (D (D + 1) / 2,)."""
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix[rows, columns]


def _symmetric(triangle: Tensor) -> Tensor:
    """The symmetric matrix (D, D) with an upper triangle (D (D + 1) / 2,)."""
    dim = math.isqrt(2 * len(triangle))
    rows, columns = torch.triu_indices(dim, dim)
    matrix = triangle.new_empty(dim, dim)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix

"""SIGReg: a sliced test that embeddings are an isotropic Gaussian, used as anti-collapse term.

LeJEPA (arXiv:2511.08544): random directions make the test one-dimensional, the Epps-Pulley
statistic compares the empirical characteristic function with that of N(0, 1). For N(0, I) its
expectation is √2π(1 − 1/√3) ≈ 1.06 at any N and D; for collapsed embeddings it is about 0.41 N.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gobelin.shared.objective.harmonics import harmonics_for
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.seeds import generator_of


def directions(seed: int, dim: int, slices: int, device: torch.device | str = "cpu") -> Tensor:
    """Random unit directions (dim, slices), fp32; the same on every node and device."""
    random = torch.randn(dim, slices, generator=generator_of(seed, "directions"))
    lengths: Tensor = torch.linalg.vector_norm(random, dim=0)
    unit = random / lengths
    if torch.device(device).type != "cuda":
        return unit.to(device)
    return unit.pin_memory().to(device, non_blocking=True)  # or the copy waits for all before it


def sigreg(
    z: Tensor,
    directions: Tensor,
    knots: int = 17,
    t_max: float = 3.0,
    offset: tuple[Tensor, Tensor] | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """The statistic T of z (N, D) or (V, N, D) under directions (D, M), mean over M (and V).

    T carries the factor N, as in the paper; divide by N for a score that does not (see
    `collapse_score`). The maths is fp32 (fp64 for fp64 input), under autocast too.
    An `offset` (dC, dS), each (M, K) or (V, M, K), is added to the mean cosines and sines of z
    and is a constant to the gradient: with a control variate it makes the test one of the data
    of all nodes (see `offset`).
    With `ranks`, T is that of the samples of all ranks together, the same on each, and N theirs;
    directions must be the same on all. See `ranks` for what the gradient is then.
    """
    with torch.autocast(z.device.type, enabled=False):
        wide = z if z.dtype == torch.float64 else z.float()
        projected = wide @ directions.to(wide.dtype)  # (..., N, M)
        cosine, sine = (None, None) if offset is None else offset
        statistic: Tensor = _EppsPulley.apply(  # (..., M)
            projected, knots, t_max, cosine, sine, ranks
        )  # type: ignore[no-untyped-call]
        return statistic.mean()


def characteristic(x: Tensor, knots: int, t_max: float) -> tuple[Tensor, Tensor]:
    """C_mk = mean_n cos(t_k x_nm) and S_mk = mean_n sin(t_k x_nm) of x (..., N, M): (..., M, K).

    Constants: no gradient flows through them.
    """
    flat, delta = _as_views(x.detach()), t_max / (knots - 1)
    cosines, sines, _ = harmonics_for(x.device).sums(flat, knots, delta)
    shape = (*x.shape[:-2], x.shape[-1], knots)
    return (cosines / x.shape[-2]).reshape(shape), (sines / x.shape[-2]).reshape(shape)


def collapse_score(statistic: Tensor, samples: int) -> Tensor:
    """T / N: near 1.06 / N when healthy, 0.41 when all embeddings are one point."""
    return statistic / samples


def quadrature(knots: int, t_max: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Knots t_k on [0, t_max], φ(t_k) = exp(−t_k²/2), and weights w_k = q_k φ(t_k), each (K,).

    q is the trapezoid rule, doubled because the integrand is even.
    """
    t = torch.linspace(0, t_max, knots, dtype=like.dtype, device=like.device)
    phi = torch.exp(-t.square() / 2)
    q = torch.full_like(t, 2 * t_max / (knots - 1))
    q[0] = q[-1] = t_max / (knots - 1)
    return t, phi, q * phi


class _EppsPulley(torch.autograd.Function):
    """T_m = N Σ_k w_k [(C_mk + dC_mk − φ_k)² + (S_mk + dS_mk)²], see `characteristic`.

    Both passes are in `harmonics`, so memory is O(NM), not O(NMK).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        knots: int,
        t_max: float,
        cosine: Tensor | None,
        sine: Tensor | None,
        ranks: Ranks | None,
    ) -> Tensor:
        """x (..., N, M) → T (..., M)."""
        t, phi, weights = quadrature(knots, t_max, x)
        ctx.delta, ctx.ranks, ctx.shape = t_max / (knots - 1), ranks, x.shape
        real, imaginary, kept = harmonics_for(x.device).sums(_as_views(x), knots, ctx.delta)
        samples: int | Tensor = x.shape[-2]
        if ranks is not None:
            real, imaginary, samples = ranks.total(real, imaginary, x.shape[-2])
        per_slice = (*x.shape[:-2], x.shape[-1], knots)
        real, imaginary = (real / samples).reshape(per_slice), (imaginary / samples)
        real, imaginary = real - phi, imaginary.reshape(per_slice)
        if cosine is not None and sine is not None:
            real, imaginary = real + cosine.to(real), imaginary + sine.to(real)
        ctx.save_for_backward(kept, real, imaginary, t * weights)
        return samples * ((real.square() + imaginary.square()) @ weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """∂T_m/∂x_nm = 2 Σ_k w_k t_k [I_mk cos(t_k x_nm) − R_mk sin(t_k x_nm)].

        R and I are what forward squares, the real and the imaginary residual; the k = 0 terms
        carry t_0 = 0. The factor N and the mean over N cancel, on all ranks together too.
        """
        kept, real, imaginary, weights = ctx.saved_tensors
        if ctx.ranks is not None:
            upstream = ctx.ranks.sum(upstream)
        scale = 2 * weights * upstream[..., None]  # (..., M, K)
        shape = (-1, *scale.shape[-2:])
        alpha, beta = (scale * imaginary).reshape(shape), (-scale * real).reshape(shape)
        gradient = harmonics_for(kept.device).series(kept, alpha, beta, ctx.delta)
        return gradient.reshape(ctx.shape), None, None, None, None, None


def _as_views(x: Tensor) -> Tensor:
    """x (..., N, M) as (V, N, M)."""
    return x.reshape(-1, *x.shape[-2:])

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

from gobelin.shared.seeds import generator_of


def directions(seed: int, dim: int, slices: int, device: torch.device | str = "cpu") -> Tensor:
    """Random unit directions (dim, slices), fp32; the same on every node and device."""
    random = torch.randn(dim, slices, generator=generator_of(seed, "directions"))
    lengths: Tensor = torch.linalg.vector_norm(random, dim=0)
    return (random / lengths).to(device)


def sigreg(
    z: Tensor,
    directions: Tensor,
    knots: int = 17,
    t_max: float = 3.0,
    offset: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The statistic T of z (N, D) or (V, N, D) under directions (D, M), mean over M (and V).

    T carries the factor N, as in the paper; divide by N for a score that does not (see
    `collapse_score`). The maths is fp32 (fp64 for fp64 input), under autocast too.
    An `offset` (dC, dS), each (M, K) or (V, M, K), is added to the mean cosines and sines of z
    and is a constant to the gradient: with a control variate it makes the test one of the data
    of all nodes (see `offset`).
    """
    with torch.autocast(z.device.type, enabled=False):
        wide = z if z.dtype == torch.float64 else z.float()
        projected = wide @ directions.to(wide.dtype)  # (..., N, M)
        cosine, sine = (None, None) if offset is None else offset
        statistic: Tensor = _EppsPulley.apply(  # (..., M)
            projected, knots, t_max, cosine, sine
        )  # type: ignore[no-untyped-call]
        return statistic.mean()


def characteristic(x: Tensor, knots: int, t_max: float) -> tuple[Tensor, Tensor]:
    """C_mk = mean_n cos(t_k x_nm) and S_mk = mean_n sin(t_k x_nm) of x (..., N, M): (..., M, K).

    The knots are evenly spaced, so cos(t_k x) and sin(t_k x) follow from cos(Δx) and sin(Δx) by
    the Chebyshev recurrence f_{k+1} = 2 cos(Δx) f_k − f_{k−1}: one sine and cosine per (n, m)
    instead of K, and memory O(NM) instead of O(NMK).
    """
    step = x * (t_max / (knots - 1))
    cosine, sine = torch.cos(step), torch.sin(step)
    twice = 2 * cosine
    cosine_before, sine_before = torch.ones_like(x), torch.zeros_like(x)
    cosines, sines = [torch.ones_like(x[..., 0, :])], [torch.zeros_like(x[..., 0, :])]
    for _ in range(1, knots):
        cosines.append(cosine.mean(dim=-2))
        sines.append(sine.mean(dim=-2))
        # The oldest term's memory takes the next one.
        cosine, cosine_before = cosine_before.neg_().addcmul_(twice, cosine), cosine
        sine, sine_before = sine_before.neg_().addcmul_(twice, sine), sine
    return torch.stack(cosines, dim=-1), torch.stack(sines, dim=-1)


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

    The backward pass sums its trigonometric series by Clenshaw's recurrence and saves nothing
    but x and the (M, K) residuals.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, knots: int, t_max: float, cosine: Tensor | None, sine: Tensor | None
    ) -> Tensor:
        """x (..., N, M) → T (..., M)."""
        t, phi, weights = quadrature(knots, t_max, x)
        real, imaginary = characteristic(x, knots, t_max)  # (..., M, K)
        real = real - phi
        if cosine is not None and sine is not None:
            real, imaginary = real + cosine.to(real), imaginary + sine.to(real)
        ctx.save_for_backward(x, real, imaginary, t * weights)
        ctx.delta = t_max / (knots - 1)
        return x.shape[-2] * ((real.square() + imaginary.square()) @ weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        """∂T_m/∂x_nm = 2 Σ_k w_k t_k [I_mk cos(t_k x_nm) − R_mk sin(t_k x_nm)].

        R and I are what forward squares, the real and the imaginary residual.
        """
        x, real, imaginary, weights = ctx.saved_tensors
        scale = 2 * weights * upstream[..., None]  # (..., M, K)
        cosine_terms = (scale * imaginary).unsqueeze(-3).unbind(-1)  # K of (..., 1, M)
        sine_terms = (-scale * real).unsqueeze(-3).unbind(-1)
        step = x * ctx.delta
        cosine = torch.cos(step)
        twice = 2 * cosine
        a, a_after = torch.zeros_like(x), torch.zeros_like(x)
        b, b_after = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(len(cosine_terms) - 1, 0, -1):
            a, a_after = torch.addcmul(cosine_terms[k] - a_after, twice, a), a
            b, b_after = torch.addcmul(sine_terms[k] - b_after, twice, b), b
        # The k = 0 terms carry t_0 = 0.
        return a * cosine - a_after + b * torch.sin(step), None, None, None, None

"""Harmonics: sums and series of cos(kΔx) and sin(kΔx), k = 0 … K − 1, the whole cost of SIGReg.

The knots are evenly spaced, so all harmonics follow from cos(Δx) and sin(Δx) by the Chebyshev
recurrence f_{k+1} = 2 cos(Δx) f_k − f_{k−1}, and a series of them from Clenshaw's: one sine and
cosine per element instead of K, in memory O(NM) instead of O(NMK). On a CPU both go through blocks
small enough to stay in the cache. On an accelerator K small kernels in a row cost more than the
arithmetic, so there all harmonics are made at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 1 << 16  # elements of x a CPU block has: with its harmonics about 2 MiB
LANES = 64  # columns summed as one; blocks of a multiple of it leave the bits of a sum alone
AT_ONCE = 1 << 27  # harmonics an accelerator makes at once: 512 MiB of fp32


class Harmonics(Protocol):
    """Sums over samples, and series, of the harmonics of x (V, N, M)."""

    def sums(self, x: Tensor, knots: int, delta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_n cos(kΔx_nm) and Σ_n sin(kΔx_nm), each (V, M, K), and what `series` needs of x."""
        ...

    def series(self, kept: Tensor, alpha: Tensor, beta: Tensor, delta: float) -> Tensor:
        """Σ_{k≥1} α_mk cos(kΔx_nm) + β_mk sin(kΔx_nm) of α, β (V, M, K): (V, N, M)."""
        ...


class Recurrence:
    """Chebyshev's and Clenshaw's recurrences, block by block.

    With the sign s_k = + + − − + + … on the k-th term both lose their subtraction,
    h_{k+1} = h_{k−1} ± 2 cos(Δx) h_k, and each step is one pass in place, rounded as before.
    """

    def sums(self, x: Tensor, knots: int, delta: float) -> tuple[Tensor, Tensor, Tensor]:
        views, samples, slices = x.shape
        first = x.new_empty(2, views, samples, slices)  # cos(Δx), sin(Δx)
        sums = x.new_empty(knots, 2, views, slices)
        sums[0, 0], sums[0, 1] = samples, 0
        scratch = _Scratch(x, 5)
        for v, m in _blocks(views, samples, slices):
            part = x[v, :, m]
            room = scratch.rows(part.shape)
            torch.mul(part, delta, out=room[4])
            terms, before, twice = room[:2], room[2:4], room[4]
            torch.cos(twice, out=terms[0])
            torch.sin(twice, out=terms[1])
            first[:, v, :, m] = terms
            torch.mul(terms[0], 2, out=twice)
            before[0], before[1] = 1, 0
            torch.sum(terms, dim=2, out=sums[1, :, v, m])
            for k in range(2, knots):
                # The oldest term's memory takes the next one.
                before.addcmul_(twice, terms, value=_turn(k - 1))
                terms, before = before, terms
                torch.sum(terms, dim=2, out=sums[k, :, v, m])
        sums *= _signs(knots, x)[:, None, None, None]
        cosines, sines = sums.permute(1, 2, 3, 0).contiguous()
        return cosines, sines, first

    def series(self, kept: Tensor, alpha: Tensor, beta: Tensor, delta: float) -> Tensor:
        _, views, samples, slices = kept.shape
        knots = alpha.shape[-1]
        signed = torch.stack([alpha, beta]) * _signs(knots, kept)
        terms = signed.permute(3, 0, 1, 2).unsqueeze(3).contiguous()  # (K, 2, V, 1, M)
        found = kept.new_empty(views, samples, slices)
        scratch = _Scratch(kept, 5)
        for v, m in _blocks(views, samples, slices):
            cosine, sine = kept[:, v, :, m]
            room = scratch.rows(cosine.shape)
            now, after, twice = room[:2], room[2:4].zero_(), room[4]
            torch.mul(cosine, 2, out=twice)
            now.copy_(terms[-1, :, v, :, m].expand_as(now))
            for k in range(knots - 2, 0, -1):
                after.add_(terms[k, :, v, :, m]).addcmul_(twice, now, value=_turn(k))
                now, after = after, now
            a, b = now
            torch.add(a.mul_(cosine).add_(after[0]), b.mul_(sine), out=found[v, :, m])  # s_2 = −1
        return found


class Direct:
    """Every harmonic from its own sine and cosine, all in a few kernels."""

    def sums(self, x: Tensor, knots: int, delta: float) -> tuple[Tensor, Tensor, Tensor]:
        cosines, sines = [], []
        for part in torch.split(x, _width(x, knots), dim=-1):
            angles = _multiples(knots, x) * (part * delta)  # (K, V, N, m)
            cosines.append(angles.cos().sum(dim=2))
            sines.append(angles.sin_().sum(dim=2))
        both = torch.cat(cosines, dim=-1), torch.cat(sines, dim=-1)  # (K, V, M)
        return both[0].permute(1, 2, 0), both[1].permute(1, 2, 0), x

    def series(self, kept: Tensor, alpha: Tensor, beta: Tensor, delta: float) -> Tensor:
        knots = alpha.shape[-1]
        width = _width(kept, knots)
        a, b = (c.permute(2, 0, 1).unsqueeze(2).clone() for c in (alpha, beta))  # (K, V, 1, M)
        a[0] = 0
        found = []
        for start, part in enumerate(torch.split(kept, width, dim=-1)):
            m = slice(start * width, start * width + part.shape[-1])
            angles = _multiples(knots, kept) * (part * delta)
            terms = angles.cos().mul_(a[..., m]).addcmul_(angles.sin_(), b[..., m])
            found.append(terms.sum(dim=0))
        return torch.cat(found, dim=-1)


class _Scratch:
    """Memory that all blocks of a call share: fresh pages cost as much as the arithmetic."""

    def __init__(self, like: Tensor, rows: int) -> None:
        width = min(
            BLOCK + LANES * like.shape[-2], like.shape[-3] * like.shape[-2] * like.shape[-1]
        )
        self._memory, self._rows = like.new_empty(rows * width), rows

    def rows(self, shape: torch.Size) -> Tensor:
        """Uninitialised, (rows, *shape)."""
        return self._memory[: self._rows * shape.numel()].view(self._rows, *shape)


def harmonics_for(device: torch.device) -> Harmonics:
    """The faster of the two on a device."""
    return Recurrence() if device.type == "cpu" else Direct()


def _turn(k: int) -> int:
    """s_{k+1} / s_k."""
    return 1 if k % 2 == 0 else -1


def _signs(knots: int, like: Tensor) -> Tensor:
    """s_k (K,): + + − − + + …"""
    return torch.tensor([1, 1, -1, -1] * (knots // 4 + 1), dtype=like.dtype)[:knots]


def _blocks(views: int, samples: int, slices: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of about BLOCK elements: some views, all samples, some columns."""
    width = min(slices, max(LANES, BLOCK // samples // LANES * LANES))
    height = max(1, BLOCK // (samples * width)) if width == slices else 1
    for v in range(0, views, height):
        for m in range(0, slices, width):
            yield slice(v, v + height), slice(m, m + width)


def _multiples(knots: int, like: Tensor) -> Tensor:
    """k = 0 … K − 1, (K, 1, 1, 1)."""
    return torch.arange(knots, dtype=like.dtype, device=like.device)[:, None, None, None]


def _width(x: Tensor, knots: int) -> int:
    """Columns whose harmonics are at most AT_ONCE."""
    return max(1, AT_ONCE // (knots * x.shape[0] * x.shape[1]))

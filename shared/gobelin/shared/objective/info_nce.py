"""InfoNCE: of all candidates, find the one that belongs (arXiv:1807.03748)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.errors import ShapeError


def nt_xent(z: Tensor, temperature: float = 0.1) -> Tensor:
    """SimCLR's loss (arXiv:2002.05709) of two views z (2, N, D), mean over all 2N anchors.

    An anchor's candidates are the 2N − 1 other embeddings, of both views, by cosine / temperature.
    Raises ShapeError unless there are two views of at least two samples.
    """
    if z.ndim != 3 or len(z) != 2 or z.shape[1] < 2:
        raise ShapeError(f"NT-Xent of views {tuple(z.shape)}", "give (2, N, D) with N ≥ 2")
    samples = z.shape[1]
    logits = _cosines(z.flatten(0, 1), z.flatten(0, 1)) / temperature  # (2N, 2N)
    itself = torch.eye(2 * samples, dtype=torch.bool, device=z.device)
    partner = torch.arange(2 * samples, device=z.device).roll(samples)
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (N, M) of rows of (N, D) and (M, D), in fp32 (fp64 for fp64) under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        kind = torch.float64 if a.dtype == torch.float64 else torch.float32
        return F.normalize(a.to(kind), dim=1) @ F.normalize(b.to(kind), dim=1).T

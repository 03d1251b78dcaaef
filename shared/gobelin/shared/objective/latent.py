"""Latent prediction: errors of predicted embeddings, with and without a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.errors import ShapeError


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Of tokens (B, N, D) those at indices (B, n): (B, n, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def teacher_error(predicted: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """I-JEPA's loss: smooth L1 to a teacher's tokens, normed over features; both (..., D).

    Quadratic below `beta`, linear above. The norm has no affine part; no gradient reaches the
    target. Raises ShapeError on unequal shapes.
    """
    _require_same(predicted, target)
    with torch.autocast(predicted.device.type, enabled=False):
        wanted = F.layer_norm(_wide(target.detach()), target.shape[-1:])
        return F.smooth_l1_loss(_wide(predicted), wanted, beta=beta)


def latent_error(predicted: Tensor, latents: Tensor) -> Tensor:
    """LeWM's loss: mean square of what was foreseen less what came, both (..., D).

    The gradient flows through both: it is anti-collapse that holds the targets up, not a
    stop-gradient. Raises ShapeError on unequal shapes.
    """
    _require_same(predicted, latents)
    with torch.autocast(predicted.device.type, enabled=False):
        return (_wide(predicted) - _wide(latents)).square().mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _require_same(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape:  # else broadcasting would make a loss of anything
        found = f"predictions {tuple(predicted.shape)} of targets {tuple(target.shape)}"
        raise ShapeError(found, "predict each target once")

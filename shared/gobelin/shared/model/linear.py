"""Linear layers where nothing is learnt: by oneDNN on a processor, with the GELU behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What torch.compile calls. F.linear multiplies fp32 by MKL, which runs at less than half of
# oneDNN's speed on processors that are not Intel's, and no slower there.
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x: Tensor, layer: nn.Linear, rows: slice = slice(None), gelu: bool = False) -> Tensor:
    """`layer`, or those `rows` of its outputs, of x (..., D); equal to F.linear to rounding.

    With `gelu`, the exact GELU of it. Where gradients are recorded it is F.linear itself.
    """
    weight, bias = layer.weight[rows], layer.bias[rows]
    x = x.contiguous()  # else it is multiplied as a batch, with a copy of the weights for each
    if not _by_onednn(x, weight):
        made = F.linear(x, weight, bias)
        return F.gelu(made) if gelu else made
    after = "gelu" if gelu else "none"
    done: Tensor = _ONEDNN(x, weight, bias, after, [], "none" if gelu else "")
    return done


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.is_grad_enabled() or _ONEDNN is None or x.requires_grad:
        return False
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype == weight.dtype == torch.float32

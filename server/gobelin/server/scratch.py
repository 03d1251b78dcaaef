"""Buffers that a thread keeps while it goes from piece to piece.

A piece's temporaries are small, but fresh pages for each of them cost more than the arithmetic.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_own = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """This thread's buffer of that name, with whatever it holds: good until asked for again."""
    count = math.prod(shape)
    kept: Tensor | None = getattr(_own, name, None)
    if kept is None or kept.dtype != dtype or len(kept) < count:
        kept = torch.empty(count, dtype=dtype)
        setattr(_own, name, kept)
    return kept[:count].view(shape)

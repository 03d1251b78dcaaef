"""Blockwise absmax quantisation: a block of values shares one scale, its largest lies on the rim.

The scale is kept as bf16, so code · scale is exact in fp32 and decoding gives the same bits on
every machine. Rounding the scale to nearest moves it by at most 2⁻⁸ of itself, less than the half
step that would push the largest value over the rim: |x − Q(x)| ≤ scale / 2 for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gobelin.shared.codec.bf16 import bf16_values, to_bf16
from gobelin.shared.errors import CodecError

TINY = torch.finfo(torch.float32).tiny  # the least scale: dividing by it cannot overflow
LARGEST = torch.finfo(torch.float32).max


def quantise(values: Tensor, block: int, rim: int) -> tuple[Tensor, Tensor]:
    """bf16-valued scales (⌈n / block⌉,) and int8 codes (n,) in −rim … rim of `values` (n,)."""
    count = values.numel()
    blocks = _in_blocks(values, block)
    scales = to_bf16(blocks.abs().amax(dim=1) / rim).float().clamp(min=TINY)
    codes = (blocks / scales[:, None]).round_().clamp_(-rim, rim)
    return scales, codes.to(torch.int8).view(-1)[:count]


def restore(scales: Tensor, codes: Tensor, block: int) -> Tensor:
    """The fp32 values (n,) of int8 codes (n,) and their blocks' scales."""
    count = codes.numel()
    blocks = _in_blocks(codes.float(), block)
    # The rim of a block that ends at fp32's largest may lie just beyond it.
    return blocks.mul_(scales[:, None]).clamp_(-LARGEST, LARGEST).view(-1)[:count]


def _in_blocks(values: Tensor, block: int) -> Tensor:
    """`values` (n,) as (⌈n / block⌉, block), the last filled up by zeros."""
    rest = -values.numel() % block
    return (functional.pad(values, (0, rest)) if rest else values).view(-1, block)


def read_scales(data: bytes) -> Tensor:
    """Scales from the wire; raises CodecError on what no scale can be."""
    scales = bf16_values(data)
    if bool((scales < 0).any()):
        raise CodecError("the payload holds a negative scale")
    return scales

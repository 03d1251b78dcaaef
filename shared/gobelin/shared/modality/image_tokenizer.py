"""The image tokenizer: pixels to tokens with fixed 2-D positions."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

WAVELENGTH = 10_000.0  # of the slowest position channel (arXiv:1706.03762 §3.5)


class ImageTokenizer(nn.Module):
    """Float images (B, C, H, W) to tokens (B, N, D); H and W may differ from the full size."""

    def __init__(
        self,
        stem: Literal["patch", "conv"],
        channels: int,
        image_size: int,  # pixels a side
        patch_size: int,
        dim: int,  # D
    ) -> None:
        super().__init__()
        self.grid = image_size // patch_size  # tokens per side of a full-size image
        if stem == "patch":  # linear patches (arXiv:2010.11929)
            self.embed: nn.Module = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        else:
            self.embed = convolutions(channels, stem_strides(image_size, patch_size), dim)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, C, H, W), row by row."""
        maps: Tensor = self.embed(images)  # (B, D, h, w)
        _, dim, rows, columns = maps.shape
        tokens = maps.flatten(2).transpose(1, 2).contiguous()  # (B, h·w, D)
        return tokens + positions(rows, columns, dim, self.grid, maps.device).to(tokens.dtype)


def positions(
    rows: int, columns: int, dim: int, extent: float, device: torch.device | None = None
) -> Tensor:
    """Fixed 2-D sine-cosine positions (rows·columns, dim), dim a multiple of 4.

    Coordinates run over [0, extent] whatever the grid, so that a small local crop is placed like
    a full-size image and not into its upper left corner.
    """
    quarter = dim // 4
    scale = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
    frequencies = WAVELENGTH**-scale  # (dim/4,)
    angles = [
        (torch.arange(n, device=device) + 0.5)[:, None] * (extent / n) * frequencies
        for n in (rows, columns)
    ]
    y, x = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles)  # (n, dim/2)
    y = y[:, None].expand(rows, columns, dim // 2)
    x = x[None].expand(rows, columns, dim // 2)
    return torch.cat([y, x], dim=2).reshape(rows * columns, dim)


def stem_strides(image_size: int, patch_size: int) -> tuple[int, int, int]:
    """Strides of three convolutions that leave image_size / patch_size tokens a side.

    The most even ones that do, the largest first, where it saves most: 28 / 7 → (2, 2, 2) and
    224 / 16 → (4, 2, 2). Their product need not be patch_size: 28 / 8 also rounds up to 4.
    """
    grid = image_size // patch_size
    candidates = itertools.combinations_with_replacement(range(patch_size, 0, -1), 3)
    fitting = [s for s in candidates if math.ceil(image_size / math.prod(s)) == grid]
    return min(fitting, key=lambda s: (max(s), sum(s)))  # (patch_size, 1, 1) always fits


def convolutions(channels: int, strides: tuple[int, int, int], dim: int) -> nn.Module:
    """Three convolutions with GroupNorm and GELU: early convolutions learn faster on small budgets
    (arXiv:2106.14881)."""
    layers: list[nn.Module] = []
    for width, stride in zip((dim // 4, dim // 2, dim), strides, strict=True):
        kernel = max(3, stride | 1)  # odd and no smaller than the stride: no pixel is skipped
        layers += [
            nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
            nn.GroupNorm(math.gcd(8, width), width),
            nn.GELU(),
        ]
        channels = width
    return nn.Sequential(*layers)

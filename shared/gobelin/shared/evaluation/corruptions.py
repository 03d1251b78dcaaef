"""Corruptions of pictures: what a camera, a cable or a hand does to them, at five severities.

The noises, contrast, brightness and pixelation are those of ImageNet-C (arXiv:1903.12261), severity
for severity; blur is a share of the side instead of pixels, so that it means the same at any size,
and rotation, translation and occlusion are beside them, as in MNIST-C (arXiv:1906.02337).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SEVERITIES = (1, 2, 3, 4, 5)

# Pixels (B, F, C, H, W) in [0, 1], F frames of each sample, a severity's strength → the same shape.
Corruption = Callable[[Tensor, float, torch.Generator], Tensor]


def gaussian_noise(x: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Noise of a standard deviation."""
    return x + deviation * torch.randn(x.shape, generator=random)


def shot_noise(x: Tensor, photons: float, random: torch.Generator) -> Tensor:
    """As many photons as white has, on average."""
    return torch.poisson(x * photons, generator=random) / photons


def impulse_noise(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A share of the values black or white."""
    drawn = torch.rand(x.shape, generator=random)
    return torch.where(drawn < share, (drawn < share / 2).to(x.dtype), x)


def blur(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A Gaussian as wide as a share of the shorter side."""
    sigma = share * min(x.shape[-2:])
    radius = min(math.ceil(3 * sigma), min(x.shape[-2:]) - 1)
    kernel = torch.softmax(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2), dim=0)
    planes = F.pad(x.flatten(0, 2)[:, None], [radius] * 4, mode="reflect")
    planes = F.conv2d(F.conv2d(planes, kernel[None, None, None]), kernel[None, None, :, None])
    return planes.view(x.shape)


def contrast(x: Tensor, kept: float, random: torch.Generator) -> Tensor:
    """A share of the distance from a sample's mean is kept."""
    mean = x.mean(dim=(1, 2, 3, 4), keepdim=True)
    return mean + kept * (x - mean)


def brightness(x: Tensor, added: float, random: torch.Generator) -> Tensor:
    """Everything brighter."""
    return x + added


def pixelation(x: Tensor, kept: float, random: torch.Generator) -> Tensor:
    """A share of the resolution."""
    size = [max(1, round(kept * side)) for side in x.shape[-2:]]
    small = F.interpolate(x.flatten(0, 1), size, mode="area")
    return F.interpolate(small, x.shape[-2:], mode="nearest").view(x.shape)


def rotation(x: Tensor, degrees: float, random: torch.Generator) -> Tensor:
    """Turned about the middle, one way or the other; what comes in is as the border was."""
    angle = math.radians(degrees) * _signs(len(x), random)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
    return _moved(x, torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1))


def translation(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Moved by a share of each side, one way or the other."""
    one, zero = torch.ones(len(x)), torch.zeros(len(x))
    across, down = (2 * share * _signs(len(x), random) for _ in range(2))
    return _moved(x, torch.stack([one, zero, across, zero, one, down], dim=1))


def occlusion(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A grey square over a share of the picture, the same in every frame."""
    height, width = x.shape[-2:]
    across, down = (share**0.5 * side for side in (width, height))
    left, top = (torch.rand(len(x), generator=random) * (1 - share**0.5) for _ in range(2))
    columns = torch.arange(width) - (left * width)[:, None]  # (B, W)
    rows = torch.arange(height) - (top * height)[:, None]
    inside_columns = (columns >= 0) & (columns < across)
    inside = ((rows >= 0) & (rows < down))[:, :, None] & inside_columns[:, None, :]
    return torch.where(inside[:, None, None], 0.5, x)


def _signs(count: int, random: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, (count,), generator=random) - 1


def _moved(x: Tensor, theta: Tensor) -> Tensor:
    """Frames under affine maps theta (B, 6), one a sample."""
    frames = x.shape[1]
    maps = theta.view(-1, 2, 3).repeat_interleave(frames, dim=0)
    flat = x.flatten(0, 1)
    grid = F.affine_grid(maps, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view(x.shape)


PICTURES: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "blur": (blur, (0.015, 0.02, 0.025, 0.03, 0.04)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelation": (pixelation, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "rotation": (rotation, (5, 10, 15, 25, 40)),
    "translation": (translation, (0.04, 0.08, 0.12, 0.16, 0.2)),
    "occlusion": (occlusion, (0.02, 0.05, 0.1, 0.15, 0.25)),
}


def corrupt_pictures(batch: Tensor, name: str, severity: int, random: torch.Generator) -> Tensor:
    """uint8 images (B, C, H, W) or clips (B, T, C, H, W) after one of PICTURES, severity 1 … 5."""
    corruption, strengths = PICTURES[name]
    pixels = batch.float() / 255
    frames = pixels[:, None] if batch.ndim == 4 else pixels
    found = corruption(frames, strengths[severity - 1], random).clamp(0, 1)
    return (255 * found).round().to(torch.uint8).view(batch.shape)

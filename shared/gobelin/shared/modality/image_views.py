"""Augmentation: batched multi-crop views, made on the device the images are on.

Every image has its own crop, flip and photometric change, but no loop runs over images. All
random numbers come from one CPU generator and are moved, so every device sees the same views.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.settings import Fraction, Positive, Range, Settings

ASPECT = (3 / 4, 4 / 3)  # width / height of a crop
BLUR_SIGMA = (0.1, 2.0)  # pixels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class ViewsRecipe(Settings):
    """Multi-crop views and their photometric augmentation (LeJEPA, arXiv:2511.08544)."""

    global_views: Positive = 2  # a sample; their mean is what all views are drawn to
    local_views: Annotated[int, Field(ge=0)] = 0  # a sample, smaller ones
    local_size: Positive = 96  # side of a local view in pixels; global views have image_size
    global_scale: Range = (0.3, 1.0)  # share of the image's area that a global view shows
    local_scale: Range = (0.05, 0.3)  # share of the image's area that a local view shows
    flip: Fraction = 0.5  # probability of a mirrored view
    # probability of a change of light and colour; its strengths are the next four
    jitter: Fraction = 0.8
    brightness: Fraction = 0.4  # factor 1 ± this
    contrast: Fraction = 0.4  # factor 1 ± this
    saturation: Fraction = 0.2  # factor 1 ± this
    hue: Fraction = 0.1  # turned by ± this share of the colour circle
    grey: Fraction = 0.2  # probability of a view without colour
    blur: Fraction = 0.5  # probability of a Gaussian blur
    solarize: Fraction = 0.2  # probability that the bright half is inverted

    @model_validator(mode="after")
    def _ranges_rise(self) -> ViewsRecipe:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} = [{low}, {high}] is not a range within (0, 1]")
        return self


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, C, H, W) as floats in [-1, 1]: what the model takes."""
    return images.float() / 127.5 - 1


class MultiCrop:
    """Global and local views of a batch (multi-crop: arXiv:2006.09882)."""

    def __init__(self, views: ViewsRecipe, image_size: int) -> None:
        self.views = views
        self.image_size = image_size

    def __call__(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Stacks of views (V_i, B, C, S_i, S_i) in [-1, 1] of uint8 images (B, C, H, W).

        The first stack holds the global views, the second, if there are any, the local ones.
        """
        views, pixels = self.views, images.float() / 255
        plan = [(views.global_views, views.global_scale, self.image_size)]
        if views.local_views:
            plan.append((views.local_views, views.local_scale, views.local_size))
        return [
            torch.stack([self._view(pixels, scale, size, generator) for _ in range(count)])
            for count, scale, size in plan
        ]

    def _view(self, pixels: Tensor, scale: Range, size: int, generator: torch.Generator) -> Tensor:
        """One view (B, C, size, size) in [-1, 1] of pixels (B, C, H, W) in [0, 1]."""
        draw = Draw(len(pixels), generator, pixels.device)
        views = self.views
        x = random_resized_crop(pixels, scale, size, views.flip, draw)
        x = jitter_light(x, views, draw)
        x = jitter_colour(x, views, draw)
        x = blur(x, views.blur, draw)
        x = solarize(x, views.solarize, draw)
        return 2 * x - 1


class Draw:
    """Random numbers for a batch, one (B,) tensor a call, drawn on the CPU."""

    def __init__(self, batch: int, generator: torch.Generator, device: torch.device) -> None:
        self.batch, self.generator, self.device = batch, generator, device

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers (B,) in [low, high)."""
        numbers = torch.rand(self.batch, generator=self.generator)
        return (low + (high - low) * numbers).to(self.device, non_blocking=True)

    def chosen(self, probability: float) -> Tensor:
        """True (B,) with `probability`."""
        return self.uniform() < probability


def random_resized_crop(images: Tensor, scale: Range, size: int, flip: float, draw: Draw) -> Tensor:
    """Crops of a random area and aspect, bilinearly resized to (B, C, size, size), some mirrored.

    The aspect is drawn among those whose crop fits into the image, so that the area is always
    the one drawn.
    """
    height, width = images.shape[-2:]
    area = draw.uniform(*scale)  # share of the image
    narrowest, widest = area * width / height, width / (height * area)
    low = torch.full_like(area, ASPECT[0]).clamp(narrowest, widest).log()
    high = torch.full_like(area, ASPECT[1]).clamp(narrowest, widest).log()
    aspect = torch.exp(low + (high - low) * draw.uniform())
    across = (area * aspect * height / width).sqrt()  # share of the width
    down = (area * width / (aspect * height)).sqrt()  # share of the height
    centre_x = (1 - across) * draw.uniform(-1, 1)
    centre_y = (1 - down) * draw.uniform(-1, 1)
    if flip:
        across = torch.where(draw.chosen(flip), -across, across)
    zero = torch.zeros_like(area)
    theta = torch.stack([across, zero, centre_x, zero, down, centre_y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter_light(x: Tensor, views: ViewsRecipe, draw: Draw) -> Tensor:
    """Brightness, then contrast, each by a factor of its own, of the images chosen for jitter."""
    if not views.jitter or not (views.brightness or views.contrast):
        return x
    chosen = draw.chosen(views.jitter)
    if views.brightness:
        factor = _factor(views.brightness, chosen, draw)
        x = (x * factor).clamp(0, 1)
    if views.contrast:
        factor = _factor(views.contrast, chosen, draw)
        mean = luma(x).mean(dim=(1, 2, 3), keepdim=True)
        x = (x * factor + mean * (1 - factor)).clamp(0, 1)
    return x


def jitter_colour(x: Tensor, views: ViewsRecipe, draw: Draw) -> Tensor:
    """Saturation, hue and greying: together one 3 × 3 colour matrix an image. Grey images pass."""
    jittered = views.jitter and (views.saturation or views.hue)
    if x.shape[1] == 1 or not (jittered or views.grey):
        return x
    kept = torch.ones(len(x), device=x.device)  # share of the chroma that is kept
    angle = torch.zeros(len(x), device=x.device)
    if jittered:
        chosen = draw.chosen(views.jitter)
        kept = _factor(views.saturation, chosen, draw).flatten()
        angle = 2 * math.pi * torch.where(chosen, draw.uniform(-views.hue, views.hue), angle)
    if views.grey:
        kept = torch.where(draw.chosen(views.grey), 0.0, kept)
    matrices = _chroma_matrices(kept, angle)  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrices, x).clamp(0, 1)


def blur(x: Tensor, probability: float, draw: Draw) -> Tensor:
    """Gaussian blur of a random width for the chosen images, as two depthwise convolutions."""
    if not probability:
        return x
    batch, channels, height, width = x.shape
    radius = max(1, min(height, width) // 20)  # a kernel of a tenth of the side (arXiv:2002.05709)
    sigma = draw.uniform(*BLUR_SIGMA)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernels = torch.softmax(-offsets.square() / (2 * sigma[:, None].square()), dim=1)
    kernels = torch.where(draw.chosen(probability)[:, None], kernels, (offsets == 0).float())
    weight = kernels.repeat_interleave(channels, dim=0)[:, None, :, None]  # (B·C, 1, 2r+1, 1)
    planes = F.pad(x, [radius] * 4, mode="reflect").flatten(0, 1)[None]  # (1, B·C, H+2r, W+2r)
    planes = F.conv2d(planes, weight, groups=batch * channels)
    planes = F.conv2d(planes, weight.transpose(2, 3), groups=batch * channels)
    return planes.view(batch, channels, height, width)


def solarize(x: Tensor, probability: float, draw: Draw) -> Tensor:
    """Invert the bright half of the chosen images."""
    if not probability:
        return x
    inverted = draw.chosen(probability)[:, None, None, None] & (x >= 0.5)
    return torch.where(inverted, 1 - x, x)


def luma(x: Tensor) -> Tensor:
    """Perceived brightness (B, 1, H, W) of (B, C, H, W)."""
    if x.shape[1] == 1:
        return x
    weights = _constants(x.device)[0]
    return torch.einsum("c,bchw->bhw", weights.to(x.dtype), x)[:, None]


def _factor(strength: float, chosen: Tensor, draw: Draw) -> Tensor:
    """Factors (B, 1, 1, 1) in 1 ± strength for the chosen images, 1 for the others."""
    factor = draw.uniform(1 - strength, 1 + strength)
    return torch.where(chosen, factor, 1.0)[:, None, None, None]


def _chroma_matrices(kept: Tensor, angle: Tensor) -> Tensor:
    """RGB matrices (B, 3, 3) that scale chroma by `kept` (B,) and turn it by `angle` (B,)."""
    _, to_yiq, from_yiq = _constants(kept.device)
    cosine, sine = kept * angle.cos(), kept * angle.sin()
    one, zero = torch.ones_like(kept), torch.zeros_like(kept)
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1)
    return from_yiq @ turn.view(-1, 3, 3) @ to_yiq


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of luma (3,), RGB to YIQ and back, each (3, 3), on a device once and for all: moving
    or inverting them for every view would let the device wait for the CPU."""
    to_yiq = torch.tensor(RGB_TO_YIQ)
    return torch.tensor(LUMA).to(device), to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)

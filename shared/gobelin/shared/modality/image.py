"""Images: uint8 (B, C, H, W); views are crops with photometric augmentation."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.data.formats import ImageFormat
from gobelin.shared.errors import DataError
from gobelin.shared.modality.image_tokenizer import ImageTokenizer
from gobelin.shared.modality.image_views import MultiCrop, ViewsRecipe, normalise
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.settings import Positive

COARSE = 5  # side of the noise that made-up images are enlarged from


class ImageRecipe(ModalityRecipe):
    """How an image becomes tokens (B, N, D), and how it is augmented."""

    kind: Literal["image"] = "image"
    stem: Literal["patch", "conv"] = "patch"  # linear patches, or three convolutions with GroupNorm
    image_size: Positive = 224  # pixels a side; pictures are scaled and cut to it
    channels: Literal[1, 3] = 3  # 1: grey, 3: RGB
    # pixels a side of a token (of `conv`, too: its strides multiply to it)
    patch_size: Positive = 16
    views: ViewsRecipe = ViewsRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> ImageRecipe:
        sizes = {"image_size": self.image_size}
        if self.views.local_views:
            sizes["views.local_size"] = self.views.local_size
        for key, size in sizes.items():
            if size % self.patch_size:
                raise ValueError(f"{key} = {size} is no multiple of patch_size = {self.patch_size}")
        return self


class Image(Modality[ImageRecipe, Tensor]):
    """Pictures of one size."""

    Table: ClassVar[type[ImageRecipe]] = ImageRecipe

    def __init__(self, recipe: ImageRecipe) -> None:
        super().__init__(recipe)
        self._multi_crop = MultiCrop(recipe.views, recipe.image_size)

    @property
    def form(self) -> ImageFormat:
        """Squares of the recipe's size."""
        return ImageFormat(self.recipe.image_size, self.recipe.channels)

    def tokenizer(self, dim: int) -> nn.Module:
        """Patches or a convolutional stem, with fixed 2-D positions."""
        recipe = self.recipe
        return ImageTokenizer(
            recipe.stem, recipe.channels, recipe.image_size, recipe.patch_size, dim
        )

    def check(self, batch: Tensor) -> None:
        """uint8 (B, C, H, W) with the recipe's channels."""
        channels = self.recipe.channels
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != channels:
            found = f"{batch.dtype} {tuple(batch.shape)}"
            raise DataError(f"a batch is {found}, the recipe needs uint8 (B, {channels}, H, W)")

    def prepare(self, batch: Tensor) -> Tensor:
        """Floats in [-1, 1]."""
        return normalise(batch)

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Multi-crop views; the global ones lead."""
        return Views(self._multi_crop(batch, generator), self.recipe.views.global_views)

    def grid(self, tokens: int) -> tuple[int, ...]:
        """Rows and columns of a square."""
        side = math.isqrt(tokens)
        return (side, side)

    def made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """Smooth random patterns: coarse noise, enlarged."""
        size = (self.recipe.image_size, self.recipe.image_size)
        coarse = torch.rand(count, self.recipe.channels, COARSE, COARSE, generator=generator)
        return (255 * F.interpolate(coarse, size, mode="bilinear")).to(torch.uint8)

"""Video: clips uint8 (B, T, C, H, W); a view changes all frames of a clip alike."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.data.formats import VideoFormat
from gobelin.shared.errors import DataError
from gobelin.shared.modality import image_views
from gobelin.shared.modality.image_views import Draw, ViewsRecipe, normalise, random_resized_crop
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.modality.sequence import sines
from gobelin.shared.settings import Positive, Range

COARSE = (3, 5, 5)  # frames and side of the noise that made-up clips are enlarged from


class VideoViewsRecipe(ViewsRecipe):
    """Multi-crop views of clips: those of images, and a part of the time stretched to all of it."""

    time_scale: Range = (0.5, 1.0)  # share of the clip's duration

    @model_validator(mode="after")
    def _time_rises(self) -> VideoViewsRecipe:
        low, high = self.time_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"time_scale = [{low}, {high}] is not a range within (0, 1]")
        return self


class VideoRecipe(ModalityRecipe):
    """How a clip becomes tokens, and how it is augmented."""

    kind: Literal["video"] = "video"
    frames: Positive = 16  # T, frames of a clip
    stride: Positive = 16  # frames from one clip to the next
    image_size: Positive = 224  # pixels a side of a frame
    channels: Literal[1, 3] = 3  # 1: grey, 3: RGB
    patch_frames: Positive = 2  # frames a tubelet
    patch_size: Positive = 16  # pixels a tubelet's side
    views: VideoViewsRecipe = VideoViewsRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> VideoRecipe:
        sizes = {"image_size": self.image_size}
        if self.views.local_views:
            sizes["views.local_size"] = self.views.local_size
        for key, size in sizes.items():
            if size % self.patch_size:
                raise ValueError(f"{key} = {size} is no multiple of patch_size = {self.patch_size}")
        if self.frames % self.patch_frames:
            found = f"frames = {self.frames}"
            raise ValueError(f"{found} is no multiple of patch_frames = {self.patch_frames}")
        return self


class VideoTokenizer(nn.Module):
    """Linear tubelets (ViViT, arXiv:2103.15691), with fixed sines of time, row and column."""

    def __init__(self, recipe: VideoRecipe, dim: int) -> None:
        super().__init__()
        self.patch = (recipe.patch_frames, recipe.patch_size)
        self.extent = (
            recipe.frames // recipe.patch_frames,
            recipe.image_size // recipe.patch_size,
        )
        self.embed = nn.Linear(recipe.patch_frames * recipe.channels * recipe.patch_size**2, dim)

    def forward(self, clips: Tensor) -> Tensor:
        """Tokens (B, N, D) of clips (B, T, C, H, W), frame by frame, row by row."""
        frames, side = self.patch
        batch, length, channels, height, width = clips.shape
        grid = (length // frames, height // side, width // side)
        cut = clips.reshape(batch, grid[0], frames, channels, grid[1], side, grid[2], side)
        cut = cut.permute(0, 1, 4, 6, 2, 3, 5, 7)  # (B, t, h, w, frames, C, side, side)
        tokens: Tensor = self.embed(cut.flatten(4).flatten(1, 3))
        placed = positions(grid, tokens.shape[2], self.extent, tokens.device)
        return tokens + placed.to(tokens.dtype)


def positions(
    grid: tuple[int, int, int],  # tokens in time, rows, columns
    dim: int,
    extent: tuple[int, int],  # of time, and of rows and columns
    device: torch.device | None = None,
) -> Tensor:
    """Fixed 3-D sine-cosine positions (t · h · w, dim), dim a multiple of 4 from 8 on.

    Coordinates run over the extent whatever the grid, as those of images do. Rows and columns have
    a third of the channels each, time the rest.
    """
    across = dim // 6 * 2
    parts = []
    sizes = (dim - 2 * across, across, across)
    for axis, (count, size) in enumerate(zip(grid, sizes, strict=True)):
        span = extent[0] if axis == 0 else extent[1]
        centres = (torch.arange(count, device=device) + 0.5) * (span / count)
        shape = [1, 1, 1, size]
        shape[axis] = count
        parts.append(sines(centres, size).view(shape).expand(*grid, size))
    return torch.cat(parts, dim=3).reshape(-1, dim)


class Video(Modality[VideoRecipe, Tensor]):
    """Clips of one size."""

    Table: ClassVar[type[VideoRecipe]] = VideoRecipe

    @property
    def form(self) -> VideoFormat:
        """Clips of the recipe's frames, squares of its size."""
        recipe = self.recipe
        return VideoFormat(recipe.frames, recipe.image_size, recipe.channels, recipe.stride)

    def tokenizer(self, dim: int) -> nn.Module:
        """Tubelets."""
        return VideoTokenizer(self.recipe, dim)

    def check(self, batch: Tensor) -> None:
        """uint8 (B, T, C, H, W) of the recipe's sizes."""
        sizes = self.form.shape
        if batch.dtype != torch.uint8 or batch.shape[1:] != sizes:
            found = f"{batch.dtype} {tuple(batch.shape)}"
            wanted = f"uint8 (B, {', '.join(map(str, sizes))})"
            raise DataError(f"a batch is {found}, the recipe needs {wanted}")

    def prepare(self, batch: Tensor) -> Tensor:
        """Floats in [-1, 1]."""
        return normalise(batch)

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Multi-crop views; the global ones lead."""
        views, clips = self.recipe.views, batch.float() / 255
        plan = [(views.global_views, views.global_scale, self.recipe.image_size)]
        if views.local_views:
            plan.append((views.local_views, views.local_scale, views.local_size))
        stacks = [
            torch.stack([self._view(clips, scale, size, generator) for _ in range(count)])
            for count, scale, size in plan
        ]
        return Views(stacks, views.global_views)

    def made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """Smooth random patterns that change smoothly: coarse noise, enlarged."""
        recipe = self.recipe
        size = (recipe.frames, recipe.image_size, recipe.image_size)
        coarse = torch.rand(count, recipe.channels, *COARSE, generator=generator)
        clips = 255 * F.interpolate(coarse, size, mode="trilinear")
        return clips.transpose(1, 2).to(torch.uint8)

    def _view(self, clips: Tensor, scale: Range, size: int, generator: torch.Generator) -> Tensor:
        """One view (B, T, C, size, size) in [-1, 1] of clips (B, T, C, H, W) in [0, 1]."""
        views = self.recipe.views
        draw = Draw(len(clips), generator, clips.device)
        x = sub_clip(clips, views.time_scale, draw)
        batch, frames, channels = x.shape[:3]
        # Frames as channels: one crop and one blur a clip.
        x = random_resized_crop(x.flatten(1, 2), scale, size, views.flip, draw)
        x = image_views.blur(x, views.blur, draw)
        # Frames one below the other: one photometric change a clip.
        x = x.view(batch, frames, channels, size, size).transpose(1, 2).flatten(2, 3)
        x = image_views.jitter_light(x, views, draw)
        x = image_views.jitter_colour(x, views, draw)
        x = image_views.solarize(x, views.solarize, draw)
        return 2 * x.view(batch, channels, frames, size, size).transpose(1, 2) - 1


def sub_clip(clips: Tensor, scale: Range, draw: Draw) -> Tensor:
    """A random part of each clip (B, T, ...), stretched linearly to its T frames."""
    last = clips.shape[1] - 1
    share = draw.uniform(*scale)
    first = draw.uniform() * (1 - share) * last
    ramp = torch.linspace(0, 1, last + 1, device=clips.device)
    times = (first[:, None] + share[:, None] * last * ramp).clamp(max=last)  # (B, T)
    before = times.floor().long()
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    weight = (times - before).view(*times.shape, *[1] * (clips.ndim - 2))
    after = (before + 1).clamp(max=last)
    return torch.lerp(clips[rows, before], clips[rows, after], weight)

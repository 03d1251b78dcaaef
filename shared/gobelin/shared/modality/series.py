"""Series: windows float32 (B, T, C) of sensors, NaN where a value is missing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gobelin.shared.data.formats import SeriesFormat
from gobelin.shared.errors import DataError
from gobelin.shared.modality.image_views import Draw
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.modality.sequence import SequenceTokenizer, spacing_of, take_spans
from gobelin.shared.settings import Fraction, Positive, Settings

COARSE = 8  # values a channel that made-up series are drawn through
ROBUST = 1.4826  # median absolute deviation to standard deviation, of a Gaussian


class SeriesViewsRecipe(Settings):
    """Crops in time and how they are changed; strengths are of scaled values."""

    views: Annotated[int, Field(ge=2)] = 2  # a sample
    length: Positive = 64  # steps of a view
    noise: Annotated[float, Field(ge=0)] = 0.05  # standard deviation, added to every value
    scaling: Annotated[float, Field(ge=0)] = 0.1  # standard deviation of a channel's log factor
    dropped: Fraction = 0.1  # probability that a channel is missing
    masked: Fraction = 0.25  # share of the view, one span of it, that is missing


class SeriesRecipe(ModalityRecipe):
    """How a window becomes tokens, and how it is augmented."""

    kind: Literal["series"] = "series"
    channels: Positive  # C, values a step
    length: Positive  # T, steps of a window
    stride: Positive  # steps from one window to the next
    rate: Annotated[float, Field(gt=0)] | None = None  # Hz that all series are resampled onto
    missing: bool = True  # whether windows with missing values are taken
    patch: Positive = 8  # steps a token
    hidden: Positive = 64  # channels after the convolution
    kernel: Positive = 5  # steps of the convolution before the patches; odd
    # seconds of the fastest position channel; unset: positions count tokens
    wavelength: Annotated[float, Field(gt=0)] | None = None
    # divides values, alike on every node; one number, or one a channel
    scale: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]] = 1.0
    normalise: Literal["none", "window"] = "none"  # window: by each one's median and deviation
    views: SeriesViewsRecipe = SeriesViewsRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> SeriesRecipe:
        for key, length in (("length", self.length), ("views.length", self.views.length)):
            if length % self.patch:
                raise ValueError(f"{key} = {length} is no multiple of patch = {self.patch}")
        if self.views.length > self.length:
            found = f"views.length = {self.views.length}"
            raise ValueError(f"{found} is more than length = {self.length}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} is even")
        if isinstance(self.scale, list) and len(self.scale) != self.channels:
            raise ValueError(f"scale has {len(self.scale)} numbers for {self.channels} channels")
        if self.wavelength is not None and self.rate is None:
            raise ValueError("wavelength is in seconds, which need a rate")
        return self


class Series(Modality[SeriesRecipe, Tensor]):
    """Prepared samples (B, T, 2C) have zeros for what is missing, and beside each value 1 if it is
    known, 0 if not."""

    Table: ClassVar[type[SeriesRecipe]] = SeriesRecipe

    @property
    def form(self) -> SeriesFormat:
        """Windows of the recipe's length, at its rate."""
        recipe = self.recipe
        return SeriesFormat(
            recipe.length, recipe.channels, recipe.stride, recipe.rate, recipe.missing
        )

    def tokenizer(self, dim: int) -> nn.Module:
        """Patches over time; positions in seconds where the recipe has a wavelength."""
        recipe = self.recipe
        seconds = recipe.patch / (recipe.rate or 1.0)
        return SequenceTokenizer(
            2 * recipe.channels,
            recipe.hidden,
            recipe.kernel,
            recipe.patch,
            dim,
            spacing_of(seconds, recipe.wavelength),
        )

    def check(self, batch: Tensor) -> None:
        """float32 (B, T, C) of the recipe's sizes, never infinite, each with some value."""
        recipe = self.recipe
        sizes = (recipe.length, recipe.channels)
        if batch.dtype != torch.float32 or batch.ndim != 3 or batch.shape[1:] != sizes:
            found, wanted = f"{batch.dtype} {tuple(batch.shape)}", f"{sizes[0]}, {sizes[1]}"
            raise DataError(f"a batch is {found}, the recipe needs float32 (B, {wanted})")
        if bool(batch.isinf().any()):
            raise DataError("a window has an infinite value", "mend it, or make it NaN if missing")
        empty = batch.isnan()
        if bool(empty.flatten(1).all(dim=1).any()):
            raise DataError("a window has no value at all", "leave it out")
        if not recipe.missing and bool(empty.any()):
            raise DataError("a window has a missing value", "mend it, or set missing = true")

    def prepare(self, batch: Tensor) -> Tensor:
        """Scaled, missing values as zeros, and what is known beside."""
        values = self._scaled(batch)
        return self._with_known(values, ~values.isnan())

    def present(self, prepared: Tensor) -> Tensor:
        """Patches with at least one value."""
        known = prepared[..., self.recipe.channels :] > 0
        patches = known.reshape(len(known), -1, self.recipe.patch * self.recipe.channels)
        return patches.any(dim=2)

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Crops in time, each with noise, channels scaled and dropped, and a span masked."""
        values = self._scaled(batch)
        count = self.recipe.views.views
        stack = torch.stack([self._view(values, generator) for _ in range(count)])
        return Views([stack], leading=count)

    def made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """Smooth random curves: coarse noise, joined by lines."""
        recipe = self.recipe
        coarse = torch.randn(count, recipe.channels, COARSE, generator=generator)
        smooth = F.interpolate(coarse, recipe.length, mode="linear", align_corners=True)
        return smooth.transpose(1, 2) * self._scale(smooth)

    def _scale(self, like: Tensor) -> Tensor:
        """(C,), or () where all channels have the same."""
        return torch.tensor(self.recipe.scale, device=like.device, dtype=like.dtype)

    def _scaled(self, batch: Tensor) -> Tensor:
        """Values (B, T, C), NaN where missing."""
        values = batch / self._scale(batch)
        if self.recipe.normalise == "none":
            return values
        centred = values - values.nanmedian(dim=1, keepdim=True).values
        deviation = ROBUST * centred.abs().nanmedian(dim=1, keepdim=True).values
        # A channel that mostly stands still is noise beside the recipe's scale: it is not blown up.
        return centred / deviation.clamp(min=1e-2)

    def _view(self, values: Tensor, generator: torch.Generator) -> Tensor:
        recipe, views = self.recipe, self.recipe.views
        draw = Draw(len(values), generator, values.device)
        starts = (draw.uniform() * (recipe.length - views.length + 1)).long()
        x = take_spans(values, starts, views.length)  # (B, L, C)
        factors, noise, chances = (
            made.to(values.device)
            for made in (
                torch.randn(len(x), 1, recipe.channels, generator=generator),
                torch.randn(x.shape, generator=generator),
                torch.rand(len(x), recipe.channels, generator=generator),
            )
        )
        x = x * (views.scaling * factors).exp() + views.noise * noise
        kept = chances >= views.dropped
        kept |= chances == chances.amax(dim=1, keepdim=True)  # one channel stays
        masked = round(views.masked * views.length)
        first = (draw.uniform() * (views.length - masked + 1)).long()[:, None]
        steps = torch.arange(views.length, device=x.device)
        outside = (steps < first) | (steps >= first + masked)  # (B, L)
        return self._with_known(x, ~x.isnan() & kept[:, None] & outside[..., None])

    def _with_known(self, values: Tensor, known: Tensor) -> Tensor:
        return torch.cat([torch.where(known, values, 0.0), known.to(values.dtype)], dim=2)

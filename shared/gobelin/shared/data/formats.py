"""What a recipe expects of every sample, one format a kind of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gobelin.shared.errors import ConfigError


@dataclass(frozen=True)
class ImageFormat:
    """Square images: uint8 (C, H, W) with H = W = `image_size`."""

    image_size: int
    channels: int

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "channels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def bytes(self) -> int:
        """Bytes of one decoded image."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.image_size} x {self.image_size} x {self.channels}"


@dataclass(frozen=True)
class VideoFormat:
    """Clips: uint8 (T, C, H, W) with T = `frames`; the next clip begins `stride` frames later."""

    frames: int
    image_size: int
    channels: int
    stride: int

    def __post_init__(self) -> None:
        _require_positive(self, "frames", "stride", "image_size", "channels")

    @property
    def image(self) -> ImageFormat:
        """What is expected of every frame."""
        return ImageFormat(self.image_size, self.channels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W)."""
        return (self.frames, *self.image.shape)

    @property
    def bytes(self) -> int:
        """Bytes of one decoded clip."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SeriesFormat:
    """Windows of a series: float32 (T, C) with T = `length`, the next one `stride` steps later.

    With a `rate` (Hz), every series is resampled onto it. Where values may be `missing`, they are
    NaN, and a series shorter than a window ends in NaN; else such windows are bad input.
    """

    length: int
    channels: int
    stride: int
    rate: float | None = None
    missing: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "length", "channels", "stride")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise ConfigError(f"a rate of {self.rate} Hz is none", "use rate > 0, or leave it out")


@dataclass(frozen=True)
class TextFormat:
    """Windows of at most `length` bytes of UTF-8, about `stride` bytes apart, zero-padded.

    A window begins and ends at a character's border, and every byte is in one: where windows would
    overlap by less than 6 bytes, they are set closer.
    """

    length: int
    stride: int

    def __post_init__(self) -> None:
        _require_positive(self, "length", "stride")
        if self.length <= OVERLAP:
            raise ConfigError(f"a window of {self.length} bytes", f"use length > {OVERLAP}")
        if self.stride > self.length:
            raise ConfigError(
                f"windows of {self.length} bytes every {self.stride} leave some out",
                "use stride ≤ length",
            )


# A character has at most 4 bytes, so its border is at most 3 away: windows that overlap by so much
# before either is moved to one leave nothing out.
OVERLAP = 6


@dataclass(frozen=True)
class TrajectoryFormat:
    """Windows inside an episode: T = `steps` actions of A = `actions` values, T + 1 observations.

    An observation is uint8 pixels (C, H, W) with H = W = `image_size`, or a float32 vector of
    `channels` values. The next window begins `stride` steps later.
    """

    steps: int
    actions: int
    observation: Literal["pixels", "vector"]
    channels: int
    image_size: int | None = None  # of pixels
    stride: int = 1

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "actions", "channels", "stride")
        if (self.observation == "pixels") != (self.image_size is not None):
            raise ConfigError(
                f"observation = {self.observation!r} with image_size = {self.image_size}",
                "pixels have an image_size, vectors have none",
            )
        if self.image_size is not None:
            _require_positive(self, "image_size")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation: (C, H, W) or (S,)."""
        if self.image_size is None:
            return (self.channels,)
        return (self.channels, self.image_size, self.image_size)


Format: TypeAlias = ImageFormat | VideoFormat | SeriesFormat | TextFormat | TrajectoryFormat


def _require_positive(form: Format, *names: str) -> None:
    for name in names:
        if getattr(form, name) < 1:
            raise ConfigError(f"{name} = {getattr(form, name)}", f"use {name} ≥ 1")

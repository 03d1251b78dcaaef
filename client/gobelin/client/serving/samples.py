"""Raw samples as JSON has them, checked and brought into the model's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gobelin.shared.data.formats import (
    Format,
    ImageFormat,
    SeriesFormat,
    TextFormat,
    TrajectoryFormat,
    VideoFormat,
)
from gobelin.shared.errors import DataError
from gobelin.shared.settings import Settings
from gobelin.shared.worldmodel.observation import (
    decode_base64,
    decode_observation,
    observation_of,
)

MOST = 256  # samples in one request


class Sample(Settings):
    """One raw sample: numbers as nested lists (null where one is missing), a PNG in base64, or a
    text."""

    values: list[Any] | None = None
    png: str | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Sample:
        if sum(given is not None for given in (self.values, self.png, self.text)) != 1:
            raise ValueError("give one of `values`, `png` and `text`")
        return self


class SamplesRequest(Settings):
    """Samples to embed or to classify."""

    samples: list[Sample] = Field(min_length=1, max_length=MOST)


class SurpriseRequest(Settings):
    """How implausible are these?

    Of a world model: T actions (T, A) that led through T + 1 observations. Of others: candidates,
    each beside its own context, such as an earlier sample of the same thing.
    """

    observations: list[Sample] | None = Field(None, min_length=2, max_length=4097)
    actions: list[Any] | None = None
    contexts: list[Sample] | None = Field(None, min_length=1, max_length=MOST)
    candidates: list[Sample] | None = Field(None, min_length=1, max_length=MOST)
    seed: int = Field(0, ge=0, lt=2**63)  # of the contexts' views


def tensor_of(samples: list[Sample], form: Format) -> Tensor:
    """Raw samples (B, ...) of a form; of trajectories, observations. Raises DataError."""
    return torch.stack([_one(sample, form) for sample in samples])


def _one(sample: Sample, form: Format) -> Tensor:
    if isinstance(form, TextFormat):
        return _text(sample, form)
    if sample.text is not None:
        raise DataError("a text: the model sees no texts", "give `values`")
    if isinstance(form, ImageFormat):
        seen = TrajectoryFormat(1, 1, "pixels", form.channels, form.image_size)
        return _observation(sample, seen)
    if isinstance(form, TrajectoryFormat):
        return _observation(sample, form)
    if sample.values is None:
        raise DataError("a picture: the model sees none", "give `values`")
    return _clip(sample.values, form) if isinstance(form, VideoFormat) else _series(sample, form)


def _observation(sample: Sample, form: TrajectoryFormat) -> Tensor:
    if sample.png is not None:
        return decode_observation(decode_base64(sample.png), form)
    return observation_of(sample.values, form)


def _text(sample: Sample, form: TextFormat) -> Tensor:
    if sample.text is None:
        raise DataError("the model sees texts", "give `text`")
    try:
        data = sample.text.encode()
    except UnicodeEncodeError:
        raise DataError("a text has characters that no UTF-8 has", "send it as UTF-8") from None
    if len(data) > form.length:
        what = f"a text has {len(data)} bytes of UTF-8, the model sees {form.length}"
        raise DataError(what, "give it in parts")
    padded = np.zeros(form.length, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return torch.from_numpy(padded)


def _clip(values: list[Any], form: VideoFormat) -> Tensor:
    seen = TrajectoryFormat(1, 1, "pixels", form.channels, form.image_size)
    if len(values) != form.frames:
        raise DataError(f"a clip has {len(values)} frames", f"the model sees {form.frames}")
    return torch.stack([observation_of(frame, seen) for frame in values])


def _series(sample: Sample, form: SeriesFormat) -> Tensor:
    """Float32 (T, C), NaN where a value is null, and behind a short series where that may be."""
    try:
        array = np.array(sample.values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise DataError("a series is no table of numbers", "give rows of equal length") from None
    wanted = f"{form.length} x {form.channels}"
    short = form.missing and len(array) < form.length
    if array.ndim != 2 or array.shape[1] != form.channels or len(array) > form.length:
        found = " x ".join(map(str, array.shape))
        raise DataError(f"a series is {found}, the model sees {wanted}", "give it that size")
    if len(array) != form.length and not short:
        raise DataError(f"a series has {len(array)} steps", f"the model sees {wanted}")
    padded = np.full((form.length, form.channels), np.nan, np.float32)
    padded[: len(array)] = array
    return torch.from_numpy(padded)

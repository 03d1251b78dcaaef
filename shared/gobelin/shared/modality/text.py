"""Text: UTF-8 bytes uint8 (B, L), zeros at the end; any script, and no vocabulary."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gobelin.shared.data.formats import OVERLAP, TextFormat
from gobelin.shared.errors import DataError
from gobelin.shared.modality.image_views import Draw
from gobelin.shared.modality.modality import Modality, ModalityRecipe, Views
from gobelin.shared.modality.sequence import SequenceTokenizer, take_spans
from gobelin.shared.settings import Fraction, Positive, Range, Settings

BYTES = 256
PAD, MASK = 0x00, 0xFF  # 0xFF is in no UTF-8 (RFC 3629 §1)
LEADS = 0xF4  # the greatest byte of UTF-8
LETTERS = torch.tensor(list(b" abcdefghijklmnopqrstuvwxyz"), dtype=torch.uint8)


class TextViewsRecipe(Settings):
    """Two or more spans of a text, with bytes masked."""

    views: Annotated[int, Field(ge=2)] = 2  # a sample
    share: Range = (0.4, 0.8)  # of the text that a span is
    masked: Fraction = 0.1  # share of a span's bytes that are hidden

    @model_validator(mode="after")
    def _range_rises(self) -> TextViewsRecipe:
        low, high = self.share
        if not 0 < low <= high <= 1:
            raise ValueError(f"share = [{low}, {high}] is not a range within (0, 1]")
        return self


class TextRecipe(ModalityRecipe):
    """How a window of bytes becomes tokens, and how it is augmented."""

    kind: Literal["text"] = "text"
    length: Annotated[int, Field(gt=OVERLAP)] = 256  # L, bytes of a window
    stride: Positive = 192  # bytes from one window to the next
    patch: Positive = 4  # bytes a token
    embedding: Positive = 32  # numbers a byte
    hidden: Positive = 64  # channels after the convolution
    kernel: Positive = 5  # bytes of the convolution before the patches; odd
    views: TextViewsRecipe = TextViewsRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> TextRecipe:
        if self.length % self.patch:
            raise ValueError(f"length = {self.length} is no multiple of patch = {self.patch}")
        if self.stride > self.length:
            raise ValueError(f"stride = {self.stride} is more than length = {self.length}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} is even")
        return self


class ByteTokenizer(nn.Module):
    """Bytes (B, L) to tokens (B, L / P, D): byte embeddings, mixed and joined to patches."""

    def __init__(self, recipe: TextRecipe, dim: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, recipe.embedding, padding_idx=PAD)
        self.patches = SequenceTokenizer(
            recipe.embedding, recipe.hidden, recipe.kernel, recipe.patch, dim
        )

    def forward(self, text: Tensor) -> Tensor:
        """Padding is embedded as zeros."""
        tokens: Tensor = self.patches(self.bytes(text.int()))
        return tokens


class Text(Modality[TextRecipe, Tensor]):
    """Prepared samples are the bytes as they are."""

    Table: ClassVar[type[TextRecipe]] = TextRecipe

    @property
    def form(self) -> TextFormat:
        """Windows of the recipe's length."""
        return TextFormat(self.recipe.length, self.recipe.stride)

    def tokenizer(self, dim: int) -> nn.Module:
        """Patches of bytes, with fixed positions."""
        return ByteTokenizer(self.recipe, dim)

    def check(self, batch: Tensor) -> None:
        """uint8 (B, L) of the recipe's length, with text in each and zeros after it alone."""
        length = self.recipe.length
        if batch.dtype != torch.uint8 or batch.ndim != 2 or batch.shape[1] != length:
            found = f"{batch.dtype} {tuple(batch.shape)}"
            raise DataError(f"a batch is {found}, the recipe needs uint8 (B, {length})")
        if bool((batch > LEADS).any()):
            raise DataError("a text has bytes that no UTF-8 has", "convert it to UTF-8")
        padded = batch == PAD
        if bool(padded[:, 0].any() or (padded[:, :-1] & ~padded[:, 1:]).any()):
            raise DataError("a text is empty, or has NUL bytes in it", "leave it out, or mend it")

    def prepare(self, batch: Tensor) -> Tensor:
        """As they are."""
        return batch

    def present(self, prepared: Tensor) -> Tensor:
        """Patches that are not padding alone."""
        return (prepared != PAD).reshape(len(prepared), -1, self.recipe.patch).any(dim=2)

    def views(self, batch: Tensor, generator: torch.Generator) -> Views:
        """Spans of each text, at characters' borders, with some bytes masked."""
        count = self.recipe.views.views
        stack = torch.stack([self._view(batch, generator) for _ in range(count)])
        return Views([stack], leading=count)

    def made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """Random letters, each text with frequencies and a length of its own."""
        length = self.recipe.length
        frequencies = torch.rand(count, len(LETTERS), generator=generator) ** 4 + 1e-3
        drawn = torch.multinomial(frequencies, length, replacement=True, generator=generator)
        text = LETTERS[drawn]
        ends = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
        return torch.where(torch.arange(length) < ends, text, PAD).to(torch.uint8)

    @property
    def _view_length(self) -> int:
        """Bytes the longest span has, its start moved back by at most 3, in whole patches."""
        recipe = self.recipe
        longest = math.ceil(recipe.views.share[1] * recipe.length) + 3
        return min(recipe.length, math.ceil(longest / recipe.patch) * recipe.patch)

    def _view(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        length, views = self.recipe.length, self.recipe.views
        draw = Draw(len(batch), generator, batch.device)
        whole = (batch != PAD).sum(dim=1)  # (B,), bytes
        share = views.share[0] + (views.share[1] - views.share[0]) * draw.uniform()
        size = (share * whole).ceil().long()
        starts = (draw.uniform() * (whole - size + 1)).long().clamp(max=length - 1)
        starts = to_border(batch, starts)
        stops = starts + size
        stops = torch.where(stops < whole, to_border(batch, stops.clamp(max=length - 1)), whole)
        stops = torch.maximum(stops, torch.minimum(starts + 1, whole))
        span = take_spans(batch, starts, self._view_length)
        steps = torch.arange(self._view_length, device=batch.device)
        inside = steps < (stops - starts)[:, None]
        chances = torch.rand(span.shape, generator=generator).to(batch.device)
        span = torch.where(chances < views.masked, MASK, span)
        return torch.where(inside, span, PAD).to(torch.uint8)


def to_border(text: Tensor, positions: Tensor) -> Tensor:
    """Positions (B,) in texts (B, L), each moved back to where a character begins."""
    for _ in range(3):
        within = (text.gather(1, positions[:, None])[:, 0] & 0xC0) == 0x80
        positions = (positions - within.long()).clamp(min=0)
    return positions

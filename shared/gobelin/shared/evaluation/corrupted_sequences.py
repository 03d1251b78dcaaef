"""Corruptions of sensor series and of text, at five severities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Windows (B, T, C), NaN where a value is missing, a severity's strength → the same shape.
SeriesCorruption = Callable[[Tensor, float, torch.Generator], Tensor]
# The characters of one text → others.
TextCorruption = Callable[[list[str], float, torch.Generator], list[str]]


def noise(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Noise, in shares of each channel's deviation within the window."""
    return x + share * _deviation(x) * torch.randn(x.shape, generator=random)


def missing(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A share of the values lost."""
    return torch.where(torch.rand(x.shape, generator=random) < share, torch.nan, x)


def gap(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A share of the window lost at one stretch, in all channels."""
    steps = x.shape[1]
    start = torch.rand(len(x), 1, generator=random) * (1 - share) * steps
    at = torch.arange(steps) - start
    return torch.where(((at >= 0) & (at < share * steps))[:, :, None], torch.nan, x)


def gain(x: Tensor, factor: float, random: torch.Generator) -> Tensor:
    """A sensor that shows everything too large."""
    return factor * x


def offset(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A sensor that is off, in shares of each channel's deviation, up or down."""
    sign = 2.0 * torch.randint(0, 2, (len(x), 1, x.shape[2]), generator=random) - 1
    return x + share * sign * _deviation(x)


def slowness(x: Tensor, factor: float, random: torch.Generator) -> Tensor:
    """The first part of the window, stretched to all of it: a sensor of another rate."""
    steps = x.shape[1]
    kept = max(2, round(steps / factor))
    # A value between a known and a missing one is missing: NaN passes through.
    part = x[:, :kept].transpose(1, 2)
    return F.interpolate(part, steps, mode="linear", align_corners=True).transpose(1, 2)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation (B, 1, C) over the known steps of each window, 0 where there are none."""
    known = ~x.isnan()
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    filled = torch.where(known, x, 0.0)
    mean = filled.sum(dim=1, keepdim=True) / count
    squares = torch.where(known, (x - mean).square(), 0.0)
    return (squares.sum(dim=1, keepdim=True) / count).sqrt()


SERIES: dict[str, tuple[SeriesCorruption, tuple[float, ...]]] = {
    "noise": (noise, (0.1, 0.2, 0.4, 0.7, 1.0)),
    "missing": (missing, (0.1, 0.2, 0.35, 0.5, 0.7)),
    "gap": (gap, (0.05, 0.1, 0.2, 0.3, 0.5)),
    "gain": (gain, (1.1, 1.2, 1.4, 1.7, 2.0)),
    "offset": (offset, (0.1, 0.2, 0.4, 0.7, 1.0)),
    "slowness": (slowness, (1.1, 1.2, 1.4, 1.7, 2.0)),
}


def corrupt_series(batch: Tensor, name: str, severity: int, random: torch.Generator) -> Tensor:
    """float32 (B, T, C) after one of SERIES; a window that would lose all its values stays."""
    corruption, strengths = SERIES[name]
    found = corruption(batch, strengths[severity - 1], random)
    empty = found.isnan().all(dim=2).all(dim=1)
    return torch.where(empty[:, None, None], batch, found)


def typos(text: list[str], share: float, random: torch.Generator) -> list[str]:
    """A share of the characters replaced by others of the same text: of its own script."""
    others = torch.randint(0, len(text), (len(text),), generator=random).tolist()
    hit = _hit(text, share, random)
    return [
        text[other] if is_hit else c for c, other, is_hit in zip(text, others, hit, strict=True)
    ]


def deletions(text: list[str], share: float, random: torch.Generator) -> list[str]:
    """A share of the characters left out."""
    return [c for c, is_hit in zip(text, _hit(text, share, random), strict=True) if not is_hit]


def swaps(text: list[str], share: float, random: torch.Generator) -> list[str]:
    """A share of the characters in the place of the next."""
    found = list(text)
    for i, is_hit in enumerate(_hit(text, share, random)[:-1]):
        if is_hit:
            found[i], found[i + 1] = found[i + 1], found[i]
    return found


def case(text: list[str], share: float, random: torch.Generator) -> list[str]:
    """A share of the letters large for small, small for large."""
    hit = _hit(text, share, random)
    return [c.swapcase() if is_hit else c for c, is_hit in zip(text, hit, strict=True)]


def _hit(text: list[str], share: float, random: torch.Generator) -> list[bool]:
    found: list[bool] = (torch.rand(len(text), generator=random) < share).tolist()
    return found


SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
TEXT: dict[str, tuple[TextCorruption, tuple[float, ...]]] = {
    "typos": (typos, SHARES),
    "deletions": (deletions, SHARES),
    "swaps": (swaps, SHARES),
    "case": (case, (0.05, 0.1, 0.25, 0.5, 1.0)),
}


def corrupt_text(batch: Tensor, name: str, severity: int, random: torch.Generator) -> Tensor:
    """uint8 (B, L) of UTF-8 with zeros at the end, after one of TEXT: whole characters alone, as
    many as fit. A text that would be empty stays."""
    corruption, strengths = TEXT[name]
    found = torch.zeros_like(batch)
    for row, kept in zip(batch, found, strict=True):
        text = list(bytes(row[row > 0].tolist()).decode(errors="ignore"))
        said = "".join(corruption(text, strengths[severity - 1], random)) if text else ""
        cut = said.encode()[: len(row)].decode(errors="ignore").encode()
        if cut:
            kept[: len(cut)] = torch.tensor(list(cut), dtype=torch.uint8)
        else:
            kept.copy_(row)
    return found

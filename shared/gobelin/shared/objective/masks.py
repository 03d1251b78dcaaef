"""Multi-block masks: which tokens a model sees, and which blocks it must predict.

As in I-JEPA (arXiv:2301.08243) for images: one block size a batch for the targets, one for the
context, positions per sample, and the context without the targets. A sequence is a grid of one row.
A video's mask is a tube, the same block in every frame (V-JEPA 2, arXiv:2506.09985).

Scale and aspect are drawn apart. A mask longer than the batch's shortest loses tokens at random:
to cut its end, as the reference does, would keep the lower right out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.seeds import generator_of

TRIES = 20  # positions tried before one target less is kept out of a context


@dataclass(frozen=True)
class BlockMasks:
    """How blocks are drawn; scales are shares of the grid's (of a video: of a frame's) tokens."""

    targets: int = 4
    scale: tuple[float, float] = (0.15, 0.2)
    aspect: tuple[float, float] = (0.75, 1.5)  # height / width
    context_scale: tuple[float, float] | None = (0.85, 1.0)  # None: all but the targets
    min_keep: int = 10  # a context has more tokens than this, of a video in each frame
    joined: bool = False  # predict the union of the targets at once, as V-JEPA does

    def __post_init__(self) -> None:
        for low, high in (self.scale, self.context_scale or (1.0, 1.0)):
            if not 0 < low <= high <= 1:
                raise ConfigError(f"mask scale [{low}, {high}]", "give a range within (0, 1]")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ConfigError(f"mask aspect {self.aspect}", "give a rising range above 0")
        if self.targets < 1 or self.min_keep < 0:
            raise ConfigError(
                f"{self.targets} targets, min_keep {self.min_keep}",
                "give 1 target or more, min_keep 0 or more",
            )


@dataclass(frozen=True)
class Masks:
    """Token indices, ascending, of a batch of B."""

    context: Tensor  # (B, Nc) int64
    targets: Tensor  # (T, B, Nt) int64; T is 1 where they are joined


def draw_masks(grid: tuple[int, ...], batch: int, seed: int, how: BlockMasks) -> Masks:
    """Masks of a batch of sequences (n,), images (h, w) or videos (t, h, w), a function of `seed`.

    Raises ConfigError where the grid is too small for what `how` asks.
    """
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ConfigError(f"masks over a grid {grid}", "give (n,), (h, w) or (t, h, w)")
    frames = grid[0] if len(grid) == 3 else 1
    height, width = (1, grid[0]) if len(grid) == 1 else grid[-2:]
    random = generator_of(seed, "masks")
    size = _block_size(height, width, how.scale, how.aspect, random)
    blocks = _place(height, width, size, (how.targets, batch), random)  # (T, B, h, w)
    context = _context(blocks, how, random)
    wanted = blocks.any(dim=0, keepdim=True) if how.joined else blocks
    chosen = _indices(context.flatten(1), random), _indices(wanted.flatten(2), random)
    seen, predicted = (_tube(flat, frames, height * width) for flat in chosen)
    return Masks(seen, predicted)


def _context(blocks: Tensor, how: BlockMasks, random: torch.Generator) -> Tensor:
    """Contexts (B, h, w) without the targets (T, B, h, w), each of more than min_keep tokens."""
    targets, batch, height, width = blocks.shape
    if how.context_scale is None:
        context = ~blocks.any(dim=0)
        if int(context.flatten(1).sum(dim=1).min()) <= how.min_keep:
            found = f"targets leave a context of {how.min_keep} tokens or fewer"
            raise ConfigError(found, "lower their number, their scale or min_keep")
        return context
    size = _block_size(height, width, how.context_scale, (1.0, 1.0), random)
    if size[0] * size[1] <= how.min_keep:
        found = f"a context block of {size[0]} × {size[1]} tokens, min_keep is {how.min_keep}"
        raise ConfigError(found, "lower min_keep, or make more tokens")
    context = torch.zeros(batch, height, width, dtype=torch.bool)
    short = torch.ones(batch, dtype=torch.bool)
    for attempt in range(TRIES * (targets + 1)):
        kept_out = blocks[: targets - attempt // TRIES, short].any(dim=0)
        context[short] = _place(height, width, size, (int(short.sum()),), random) & ~kept_out
        short = context.flatten(1).sum(dim=1) <= how.min_keep
        if not bool(short.any()):
            break
    return context


def _block_size(
    height: int,
    width: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    random: torch.Generator,
) -> tuple[int, int]:
    """A block's height and width, smaller than the grid unless it is one token wide."""
    share, ratio = (
        low + (high - low) * float(torch.rand((), generator=random))
        for low, high in (scale, aspect)
    )
    area = share * height * width
    if height == 1:  # a sequence: no aspect
        return 1, max(1, min(round(area), width - 1))
    rows, columns = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    return max(1, min(rows, height - 1)), max(1, min(columns, width - 1))


def _place(
    height: int, width: int, size: tuple[int, int], many: tuple[int, ...], random: torch.Generator
) -> Tensor:
    """Blocks of a size at random places, bool (*many, height, width)."""
    top = torch.randint(height - size[0] + 1, (*many, 1), generator=random)
    left = torch.randint(width - size[1] + 1, (*many, 1), generator=random)
    y, x = torch.arange(height), torch.arange(width)
    rows, columns = (y >= top) & (y < top + size[0]), (x >= left) & (x < left + size[1])
    return rows[..., :, None] & columns[..., None, :]


def _indices(mask: Tensor, random: torch.Generator) -> Tensor:
    """Of each bool (..., N) as many true indices as the shortest has, at random, ascending."""
    length = int(mask.sum(dim=-1).min())
    order = torch.rand(mask.shape, generator=random) + ~mask  # what is masked comes first
    return order.argsort(dim=-1)[..., :length].sort(dim=-1).values


def _tube(indices: Tensor, frames: int, tokens: int) -> Tensor:
    """Indices (..., n) in a frame of `tokens`, in every frame: (..., frames · n)."""
    starts = torch.arange(frames) * tokens
    return (indices[..., None, :] + starts[:, None]).flatten(-2)

"""Multi-block masks: shapes, sizes, disjointness, tubes, and what cannot be drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.objective import masks
from gobelin.shared.objective.masks import BlockMasks, Masks, draw_masks

TUBES = BlockMasks(targets=8, scale=(0.15, 0.15), context_scale=None, joined=True)


def one_hot(indices: Tensor, tokens: int) -> Tensor:
    """Bool (..., tokens) of indices (..., n); fails on repeated ones."""
    counts = torch.zeros(*indices.shape[:-1], tokens).scatter_add(
        -1, indices, torch.ones(indices.shape)
    )
    assert counts.max() == 1
    return counts.bool()


@pytest.mark.parametrize("seed", range(10))
def test_targets_are_rectangles_of_one_size_within_scale_and_aspect(seed: int) -> None:
    found = draw_masks((14, 14), 8, seed, BlockMasks())
    assert found.targets.shape[:2] == (4, 8)
    boxes = one_hot(found.targets, 196).unflatten(-1, (14, 14))
    heights, widths = boxes.any(dim=3).sum(dim=2), boxes.any(dim=2).sum(dim=2)
    assert len(heights.unique()) == len(widths.unique()) == 1
    height, width = int(heights[0, 0]), int(widths[0, 0])
    assert height * width == found.targets.shape[-1]  # the box is full
    low, high = ((0.15 * 196 * 0.75) ** 0.5, (0.2 * 196 * 1.5) ** 0.5)
    assert round(low) <= height <= round(high)
    assert round((0.15 * 196 / 1.5) ** 0.5) <= width <= round((0.2 * 196 / 0.75) ** 0.5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("grid", "how"), [((14, 14), BlockMasks()), ((64,), BlockMasks()), ((4, 12, 12), TUBES)]
)
def test_a_context_sees_no_target_and_is_as_long_in_every_sample(
    grid: tuple[int, ...], how: BlockMasks, seed: int
) -> None:
    tokens = int(torch.tensor(grid).prod())
    found = draw_masks(grid, 16, seed, how)
    assert len(found.context) == found.targets.shape[1] == 16
    seen, wanted = one_hot(found.context, tokens), one_hot(found.targets, tokens).any(dim=0)
    assert not bool((seen & wanted).any())
    assert found.context.shape[1] > how.min_keep
    assert torch.equal(found.context, found.context.sort(dim=1).values)


def test_what_is_cut_to_the_shortest_is_cut_anywhere() -> None:
    last_rows, cut = 0, 0
    for seed in range(40):
        found = draw_masks((14, 14), 16, seed, BlockMasks(context_scale=None))
        free = ~one_hot(found.targets, 196).any(dim=0)
        lost = (free & ~one_hot(found.context, 196)).unflatten(1, (14, 14))
        cut += int(lost.sum())
        last_rows += int(lost[:, 7:].sum())
    assert cut > 1000
    assert 0.4 < last_rows / cut < 0.6


def test_masks_are_a_function_of_the_seed() -> None:
    def same(a: Masks, b: Masks) -> bool:
        shapes = a.context.shape == b.context.shape and a.targets.shape == b.targets.shape
        return shapes and torch.equal(a.context, b.context) and torch.equal(a.targets, b.targets)

    first = draw_masks((14, 14), 4, 3, BlockMasks())
    assert same(first, draw_masks((14, 14), 4, 3, BlockMasks()))
    assert not same(first, draw_masks((14, 14), 4, 4, BlockMasks()))


def test_positions_differ_between_samples_and_reach_every_token() -> None:
    hit = torch.zeros(196, dtype=torch.bool)
    for seed in range(20):
        wanted = one_hot(draw_masks((14, 14), 16, seed, BlockMasks()).targets, 196)
        assert len(wanted[0].unique(dim=0)) > 1
        hit |= wanted.flatten(0, 1).any(dim=0)
    assert bool(hit.all())


def test_a_tube_is_the_same_block_in_every_frame() -> None:
    found = draw_masks((5, 12, 12), 3, 0, TUBES)
    for indices in (found.context, found.targets[0]):
        frames = one_hot(indices, 5 * 144).unflatten(1, (5, 144))
        assert torch.equal(frames, frames[:, :1].expand_as(frames))
    assert len(found.targets) == 1  # joined


def test_a_sequence_is_masked_in_spans() -> None:
    found = draw_masks((100,), 6, 1, BlockMasks(targets=2))
    assert 15 <= found.targets.shape[-1] <= 20
    steps = found.targets.diff(dim=-1)
    assert bool((steps == 1).all())


def test_where_targets_leave_too_little_one_is_let_in() -> None:
    crowded = BlockMasks(targets=6, scale=(0.6, 0.6), min_keep=20)
    found = draw_masks((8, 8), 16, 0, crowded)
    assert found.context.shape[1] > 20
    assert bool(
        (one_hot(found.context, 64) & one_hot(found.targets, 64).any(dim=0)).any()
    )  # it had to give way
    assert masks.TRIES == 20


@pytest.mark.parametrize(
    ("grid", "how"),
    [
        ((3, 3), BlockMasks()),
        ((6, 6), BlockMasks(targets=12, scale=(0.5, 0.5), context_scale=None)),
        ((2, 2, 2, 2), BlockMasks()),
        ((0,), BlockMasks()),
    ],
)
def test_a_grid_too_small_is_refused(grid: tuple[int, ...], how: BlockMasks) -> None:
    with pytest.raises(ConfigError):
        draw_masks(grid, 8, 0, how)


@pytest.mark.parametrize(
    "bad", [{"scale": (0.0, 0.2)}, {"aspect": (2.0, 1.0)}, {"targets": 0}, {"min_keep": -1}]
)
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BlockMasks(**bad)  # type: ignore[arg-type]

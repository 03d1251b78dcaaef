"""Views: right shapes, same seed same views, and each change does what its name says."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor

from gobelin.shared.modality.image_views import (
    Draw,
    MultiCrop,
    ViewsRecipe,
    blur,
    jitter_colour,
    luma,
    normalise,
    random_resized_crop,
    solarize,
)

STILL = ViewsRecipe(
    global_views=1, global_scale=(1.0, 1.0), flip=0, jitter=0, grey=0, blur=0, solarize=0
)


def images(batch: int = 6, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def draw(batch: int = 6, seed: int = 0) -> Draw:
    return Draw(batch, torch.Generator().manual_seed(seed), torch.device("cpu"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_global_and_local_views_have_the_shapes_of_the_recipe() -> None:
    views = ViewsRecipe(global_views=2, local_views=3, local_size=16)
    stacks = MultiCrop(views, image_size=24)(images(), generator())
    assert [tuple(s.shape) for s in stacks] == [(2, 6, 3, 24, 24), (3, 6, 3, 16, 16)]
    for stack in stacks:
        assert stack.isfinite().all()
        assert stack.min() >= -1
        assert stack.max() <= 1


def test_the_same_generator_gives_the_same_views() -> None:
    crop = MultiCrop(ViewsRecipe(), image_size=24)
    first, again, other = (crop(images(), generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_of_one_image_differ_and_so_do_the_crops_of_equal_images() -> None:
    same = images(batch=1).expand(6, -1, -1, -1)
    stack = MultiCrop(STILL.model_copy(update={"global_views": 2, "global_scale": (0.3, 0.5)}), 24)
    first, second = stack(same, generator())[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_a_full_crop_without_changes_is_the_image() -> None:
    (stack,) = MultiCrop(STILL, image_size=32)(images(), generator())
    torch.testing.assert_close(stack[0], normalise(images()), rtol=0, atol=1e-5)


def test_a_full_crop_of_an_oblong_image_is_all_of_it() -> None:
    ramp = torch.linspace(0, 1, 64).expand(6, 1, 16, 64)
    view = random_resized_crop(ramp, (1.0, 1.0), 32, flip=0, draw=draw())
    torch.testing.assert_close(view[0, 0, 0, 0], torch.tensor(1 / 126), rtol=0, atol=1e-5)
    torch.testing.assert_close(view[0, 0, 0, -1], torch.tensor(125 / 126), rtol=0, atol=1e-5)


def test_a_certain_flip_mirrors_the_image() -> None:
    view = random_resized_crop(images().float(), (1.0, 1.0), 32, flip=1, draw=draw())
    torch.testing.assert_close(view, images().float().flip(-1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_crops_have_the_area_and_aspect_they_should(height: int, width: int) -> None:
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width).expand(height, width)
    coordinates = torch.stack([rows, columns]).expand(500, 2, height, width)
    view = random_resized_crop(coordinates, (0.2, 0.5), 8, flip=0, draw=draw(500))
    # Between the centres of the first and last output pixel lie 7/8 of the crop.
    down = (view[:, 0, -1, 0] - view[:, 0, 0, 0]) / 2 * (height - 1) / 7 * 8
    across = (view[:, 1, 0, -1] - view[:, 1, 0, 0]) / 2 * (width - 1) / 7 * 8
    area, aspect = down * across / (height * width), across / down
    assert 0.199 < area.min() < 0.22
    assert 0.48 < area.max() < 0.501
    assert 0.749 < aspect.min() < 0.78
    assert 1.3 < aspect.max() < 1.335


def test_grey_images_skip_colour() -> None:
    views = ViewsRecipe(jitter=1, saturation=0.4, hue=0.5, grey=1)
    grey = images(channels=1).float() / 255
    assert jitter_colour(grey, views, draw()) is grey


def test_greying_keeps_brightness_and_drops_colour() -> None:
    colour = images().float() / 255
    views = STILL.model_copy(update={"grey": 1.0})
    grey = jitter_colour(colour, views, draw())
    torch.testing.assert_close(grey, luma(colour).expand(-1, 3, -1, -1), rtol=0, atol=2e-3)


def test_hue_turns_red_by_the_angle_and_leaves_grey_alone() -> None:
    half = ViewsRecipe(jitter=1, saturation=0, hue=0.5, grey=0)
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(400, 3, 1, 1)
    turned = jitter_colour(red, half, draw(400)).flatten(1)
    hues = [colorsys.rgb_to_hsv(*pixel.tolist())[0] for pixel in turned]
    assert min(hues) < 0.05
    assert max(hues) > 0.95  # all hues are reached
    plain = torch.full((400, 3, 1, 1), 0.5)
    torch.testing.assert_close(jitter_colour(plain, half, draw(400)), plain, rtol=0, atol=2e-3)


def test_only_the_chosen_share_of_images_is_solarized() -> None:
    bright = torch.full((2000, 1, 1, 1), 0.75)
    changed = solarize(bright, 0.2, draw(2000)) != bright
    assert 0.16 < changed.float().mean() < 0.24
    dark = torch.full((10, 1, 1, 1), 0.25)
    assert torch.equal(solarize(dark, 1.0, draw(10)), dark)


def test_blur_smooths_chosen_images_and_returns_the_others() -> None:
    noise = images(batch=200, height=40, width=40).float() / 255
    blurred = blur(noise, 0.5, draw(200))
    moved = (blurred - noise).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 0.35 < moved.float().mean() < 0.65
    torch.testing.assert_close(blurred[~moved], noise[~moved], rtol=0, atol=1e-3)
    assert (blurred[moved].std(dim=(1, 2, 3)) < noise[moved].std(dim=(1, 2, 3))).all()
    flat = torch.full((4, 3, 40, 40), 0.3)
    torch.testing.assert_close(blur(flat, 1.0, draw(4)), flat)


def test_normalise_spans_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalise(ends).flatten().tolist() == [-1, 1]

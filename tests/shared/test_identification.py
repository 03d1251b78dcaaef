"""Identification knows no frame or scale of a latent space, and one point for all finds none."""

from __future__ import annotations

import pytest
import torch

from gobelin.shared.errors import ShapeError
from gobelin.shared.evaluation.identification import identify, nearest
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe


def clouds(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(64, 8, generator=generator)
    return first, first + noise * torch.randn(64, 8, generator=generator)


def test_what_differs_little_is_found_and_what_differs_much_is_not() -> None:
    shares = [float(nearest(*clouds(noise)).double().mean()) for noise in (0.01, 1.0, 100.0)]
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.1  # chance is 1 / 64


def test_frame_scale_and_offset_change_nothing() -> None:
    first, second = clouds(0.7)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    moved = [100 * x @ turn + 5 for x in (first, second)]
    assert torch.equal(nearest(first, second), nearest(*moved))


def test_one_point_for_all_finds_nothing() -> None:
    assert not nearest(torch.ones(16, 4), torch.ones(16, 4)).any()
    collapsed = build_jepa(load_recipe("toy"), seed=0)
    with torch.no_grad():
        for parameter in collapsed.parameters():
            parameter.zero_()
    images = torch.randint(0, 256, (16, 1, 28, 28), dtype=torch.uint8)
    assert not identify(collapsed.encoder(None), images, 0).any()


def test_the_same_views_are_asked_of_every_model_and_again() -> None:
    model = build_jepa(load_recipe("toy"), seed=0)
    generator = torch.Generator().manual_seed(2)
    images = model.encoder(None).modality.made_up(24, generator)
    found = [identify(model.encoder(None), images, 3) for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].any()
    assert model.training  # as it was


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(ShapeError, match="cannot be looked for"):
        nearest(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ShapeError, match="N ≥ 2"):
        nearest(torch.ones(1, 2), torch.ones(1, 2))

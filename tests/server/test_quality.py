"""The collapse gate refuses a dead encoder and no honest one, without any data."""

from __future__ import annotations

import pytest
import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.admission import Refusal
from gobelin.server.quality import IMAGES, CollapseGate, made_up_images
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")


@pytest.fixture
def base() -> ParameterVector:
    return ParameterVector.of(build_jepa(RECIPE, 3))


def scaled(base: ParameterVector, factor: float) -> ParameterVector:
    return ParameterVector(base.schema, base.values * factor)


def test_an_encoder_that_answers_all_images_alike_is_refused(base: ParameterVector) -> None:
    refusal = CollapseGate(RECIPE, 3).judge(base, scaled(base, -1.0))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "collapse"
    assert "effective rank 0" in refusal.found


def test_features_that_overflow_are_refused(base: ParameterVector) -> None:
    values = torch.full_like(base.values, 4000.0)
    values[::2] *= -1
    refusal = CollapseGate(RECIPE, 3).judge(base, ParameterVector(base.schema, values * 1e30))
    assert refusal is not None


def test_honest_training_passes(base: ParameterVector) -> None:
    generator = generator_of(0, "images")
    images = torch.randint(0, 256, (16, 1, 28, 28), generator=generator, dtype=torch.uint8)
    trained, _ = LocalTrainer(RECIPE, lambda step: images).train(base, LocalSteps(0, 20, 20, 1, 2))
    gate = CollapseGate(RECIPE, 3)
    assert gate.judge(base, trained - base) is None
    assert gate.judge(trained, scaled(base, 0.0)) is None  # and the next round's base is measured


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.05])
def test_noise_about_the_base_passes(base: ParameterVector, size: float) -> None:
    gate = CollapseGate(RECIPE, 3)
    for number in range(5):
        noise = torch.randn(base.schema.size, generator=generator_of(number, "noise"))
        assert gate.judge(base, ParameterVector(base.schema, size * noise)) is None


def test_a_base_that_has_collapsed_itself_refuses_nobody(base: ParameterVector) -> None:
    dead = scaled(base, 0.0)
    assert CollapseGate(RECIPE, 3).judge(dead, scaled(base, 0.0)) is None


def test_the_images_come_from_the_seed_alone() -> None:
    images = made_up_images(RECIPE, 5)
    assert (images.shape, images.dtype) == ((IMAGES, 1, 28, 28), torch.uint8)
    assert torch.equal(images, made_up_images(RECIPE, 5))
    assert not torch.equal(images, made_up_images(RECIPE, 6))

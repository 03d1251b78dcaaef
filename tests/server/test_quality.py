"""The collapse gate refuses a dead encoder and no honest one, without any data."""

from __future__ import annotations

import pytest
import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.server.admission import Refusal
from gobelin.server.quality import SAMPLES, CollapseGate, Look, made_up
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
    assert isinstance(refusal, Refusal)


def test_honest_training_passes(base: ParameterVector) -> None:
    generator = generator_of(0, "images")
    images = torch.randint(0, 256, (16, 1, 28, 28), generator=generator, dtype=torch.uint8)
    trained, _ = LocalTrainer(RECIPE, lambda step: images).train(base, LocalSteps(0, 20, 20, 1, 2))
    gate = CollapseGate(RECIPE, 3)
    seen = gate.judge(base, trained - base)
    assert isinstance(seen, Look)
    assert 0 < seen.frame_rotation < 45
    still = gate.judge(trained, scaled(base, 0.0))  # and the next round's base is measured
    assert isinstance(still, Look)
    assert still.effective_rank == seen.effective_rank
    assert still.frame_rotation == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.05])
def test_noise_about_the_base_passes(base: ParameterVector, size: float) -> None:
    gate = CollapseGate(RECIPE, 3)
    for number in range(5):
        noise = torch.randn(base.schema.size, generator=generator_of(number, "noise"))
        assert isinstance(gate.judge(base, ParameterVector(base.schema, size * noise)), Look)


def test_a_base_that_has_collapsed_itself_refuses_nobody(base: ParameterVector) -> None:
    dead = scaled(base, 0.0)
    assert isinstance(CollapseGate(RECIPE, 3).judge(dead, scaled(base, 0.0)), Look)


def test_the_images_come_from_the_seed_alone() -> None:
    images = made_up(RECIPE, 5)
    assert (images.shape, images.dtype) == ((SAMPLES, 1, 28, 28), torch.uint8)
    assert torch.equal(images, made_up(RECIPE, 5))
    assert not torch.equal(images, made_up(RECIPE, 6))


def test_a_probe_takes_the_place_of_the_made_up(base: ParameterVector) -> None:
    images = made_up(RECIPE, 8)
    gate, other = CollapseGate(RECIPE, 3, images), CollapseGate(RECIPE, 3)
    assert gate.look(base, base) != other.look(base, base)
    assert gate.look(base, base) == CollapseGate(RECIPE, 9, images).look(base, base)


def test_a_consensus_whose_last_layer_is_turned_lies_in_a_turned_frame(
    base: ParameterVector,
) -> None:
    model = build_jepa(RECIPE, 3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("trunk.norm.weight", "trunk.norm.bias"):
                parameter.neg_()
    looked = CollapseGate(RECIPE, 3).look(base, ParameterVector.of(model))
    assert looked.frame_rotation == pytest.approx(180, abs=1e-3)

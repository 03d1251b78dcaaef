"""Masked prediction of samples with padding: what is not there is neither seen nor foreseen."""

from __future__ import annotations

import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Draw
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector


def masked_text() -> Recipe:
    values = load_recipe("text_tiny").model_dump(mode="json")
    values["objective"] = {"kind": "masked", "slices": 16}
    values["trunk"] |= {"dim": 16, "depth": 1, "heads": 2}
    values["projector"] |= {"hidden": 16, "out": 8}
    values["inner"]["batch_size"] = 16
    return Recipe.model_validate(values)


def texts(length: int, filled: int) -> torch.Tensor:
    """uint8 (16, length): letters, then zeros."""
    letters = torch.randint(97, 123, (16, length), generator=generator_of(0, "text"))
    letters[:, filled:] = 0
    return letters.to(torch.uint8)


def test_padding_is_neither_tested_nor_foreseen() -> None:
    recipe = masked_text()
    length = recipe.modality().form.length
    encoder, objective = build_jepa(recipe, 0).encoder(), recipe.objective_of()
    batch = texts(length, length // 2)
    seen = objective.projections(encoder, batch, generator_of(1, "x"))
    present = encoder.present(encoder.prepare(batch))
    assert present is not None
    assert len(seen) == int(present.sum()) < present.numel()
    parts, features = objective(encoder, batch, Draw(generator_of(1, "views"), slices=2))
    assert bool(torch.stack([parts.total, parts.prediction, parts.collapse]).isfinite().all())
    assert bool(features.isfinite().all())


def test_a_short_text_trains() -> None:
    recipe = masked_text()
    length = recipe.modality().form.length
    batch = texts(length, 5)  # most contexts hold no data at all
    base = ParameterVector.of(build_jepa(recipe, 0))
    trained, _ = LocalTrainer(recipe, lambda step: batch).train(base, LocalSteps(0, 3, 3, 1, 2))
    assert bool(trained.values.isfinite().all())

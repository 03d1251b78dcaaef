"""Every objective learns, keeps samples apart where it should, and repeats to the byte."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer, TrainingReport
from gobelin.shared.alarm import Collapse, collapse_alarm
from gobelin.shared.data import MemorySource
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.held_out_loss import held_out_loss
from gobelin.shared.model import build_jepa, hollow_jepa, lent, weights_of
from gobelin.shared.objective import Moments
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

H = 4
FIRST = LocalSteps(first_step=0, steps=H, total_steps=4 * H, seed=1, node_seed=2)
SECOND = replace(FIRST, first_step=H)
LONG = replace(FIRST, steps=100, total_steps=100)
TEST = {"slices": 16, "reference_batch": 16}
PREDICTOR = {"dim": 16, "depth": 1, "heads": 2}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "vicreg": {"kind": "vicreg"},
    "info_nce": {"kind": "info_nce"},
    "byol": {"kind": "byol", "hidden": 32},
    "masked": {"kind": "masked", "predictor": PREDICTOR, "reference_batch": 64},
    "masked, teacher": {"kind": "masked", "predictor": PREDICTOR, "teacher": True},
}
TAUGHT = ("byol", "masked, teacher")


def recipe_of(name: str, norm: str = "batch", **changed: Any) -> Recipe:
    values = load_recipe("toy").model_dump(mode="json")
    values["objective"] = {**TEST, **OBJECTIVES[name], **changed}
    values["projector"]["norm"] = norm
    values["inner"]["lr"] = 5e-3
    return Recipe.model_validate(values)


def batches(step: int) -> Tensor:
    """Blobs at places that depend on the step: images with something to learn."""
    where = torch.rand(16, 2, 1, 1, generator=generator_of(0, "data", step)) * 2 - 1
    axis = torch.linspace(-1, 1, 28)
    distance = (axis[:, None] - where[:, :1]) ** 2 + (axis - where[:, 1:]) ** 2
    return (255 * torch.exp(-4 * distance)).to(torch.uint8)


def base_of(recipe: Recipe) -> ParameterVector:
    return ParameterVector.of(build_jepa(recipe, seed=0))


def train(recipe: Recipe, local: LocalSteps) -> tuple[LocalTrainer, TrainingReport, list[float]]:
    trainer, losses = LocalTrainer(recipe, batches), []
    _, report = trainer.train(base_of(recipe), local, lambda step: losses.append(step.loss))
    return trainer, report, losses


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_falls_and_nothing_collapses(name: str) -> None:
    _, report, losses = train(recipe_of(name), LONG)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert collapse_alarm(report.health) is None
    assert 0 < report.collapse < 1


@pytest.mark.parametrize(
    ("name", "without"),
    [("vicreg", {"variance": 0, "covariance": 0}), ("masked", {"weight": 0})],
)
def test_without_its_anti_collapse_terms_an_objective_collapses(
    name: str, without: dict[str, float]
) -> None:
    kept, lost = (
        spread_at_places(train(recipe_of(name, "layer", **changed), LONG)[0])
        for changed in ({}, without)
    )
    assert lost < 0.1 * kept
    assert lost < 0.05


def test_a_prediction_of_oneself_without_a_slow_teacher_collapses() -> None:
    _, report, _ = train(recipe_of("byol", "layer", momentum=0.0), replace(LONG, steps=150))
    alarm = collapse_alarm(report.health)
    assert alarm is not None
    assert alarm.kind in (Collapse.POINT, Collapse.LINE)


@torch.no_grad()
def spread_at_places(trainer: LocalTrainer) -> float:
    """Deviation of projections over samples, at one place or in one view; mean over all."""
    z = trainer.objective.projections(trainer.encoder, batches(500), generator_of(0, "views"))
    groups = z.unflatten(0, (16, -1) if trainer.recipe.objective.kind == "masked" else (-1, 16))
    over = 0 if trainer.recipe.objective.kind == "masked" else 1
    return float(groups.std(dim=over).mean())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_restarted_node_goes_on_to_the_byte(name: str) -> None:
    recipe = recipe_of(name)
    undisturbed = LocalTrainer(recipe, batches)
    middle, _ = undisturbed.train(base_of(recipe), FIRST)
    kept = undisturbed.state()
    end, _ = undisturbed.train(middle, SECOND)
    restarted = LocalTrainer(recipe, batches)
    restarted.load_state(kept)
    assert restarted.train(middle, SECOND)[0].digest == end.digest


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_is_no_part_of_what_is_exchanged_or_kept(name: str) -> None:
    recipe = recipe_of(name)
    trainer = LocalTrainer(recipe, batches)
    schema, state = trainer.schema, set(trainer.state())
    vector, _ = trainer.train(base_of(recipe), FIRST)
    assert ParameterSchema.of(trainer.model).digest == vector.schema.digest == schema.digest
    assert set(trainer.state()) == state
    assert {spec.role for spec in schema.tensors} == {
        "tokenizers",
        "trunk",
        "projector",
        "predictors",
    }


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_follows_from_the_base_on(name: str) -> None:
    """After the first step it must matter how fast it follows, and before it must not."""
    digests: dict[int, set[str]] = {}
    for steps in (1, 3):
        for momentum in (0.0, 1.0):
            recipe = recipe_of(name, momentum=momentum)
            trained, _ = LocalTrainer(recipe, batches).train(
                base_of(recipe), replace(FIRST, steps=steps)
            )
            digests.setdefault(steps, set()).add(trained.digest)
    assert len(digests[1]) == 1
    assert len(digests[3]) == 2


@pytest.mark.parametrize("name", OBJECTIVES)
def test_lent_weights_have_the_held_out_loss_of_the_whole_model(name: str) -> None:
    recipe = recipe_of(name)
    vector = base_of(recipe)
    source = MemorySource(torch.cat([batches(step) for step in range(3)]))
    whole, hollow = build_jepa(recipe, seed=1), hollow_jepa(recipe)
    vector.load_into(whole)
    found = held_out_loss(whole.encoder(), recipe.objective_of(), source, batches=2)
    with lent(hollow, weights_of(vector)):
        borrowed = held_out_loss(hollow.encoder(), recipe.objective_of(), source, batches=2)
    assert borrowed == found


def test_masked_prediction_is_tested_beside_other_nodes_data() -> None:
    recipe = recipe_of("masked")
    trainer, base = LocalTrainer(recipe, batches), base_of(recipe)
    own = trainer.moments(base, FIRST)
    assert own.samples == FIRST.steps * 16 * 16  # of each image every token
    other = Moments.of(torch.full((8, recipe.projector.out), 0.3))
    offset = Moments.pool([(own, Fraction(1)), (other, Fraction(1))]).offset_from(own)
    guided = trainer.train(base, replace(FIRST, offset=offset))[0]
    alone = LocalTrainer(recipe, batches).train(base, FIRST)[0]
    assert guided.digest != alone.digest


def test_one_view_is_too_few_to_compare() -> None:
    values = recipe_of("vicreg").model_dump(mode="json")
    values["modalities"]["image"]["views"]["global_views"] = 1
    with pytest.raises(ConfigError, match=r"global_views = 2"):
        train(Recipe.model_validate(values), FIRST)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bf16_has_about_the_loss_of_fp32(name: str) -> None:
    recipe = recipe_of(name)
    losses = [
        LocalTrainer(recipe, batches, precision=precision).train(base_of(recipe), FIRST)[1].loss
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)

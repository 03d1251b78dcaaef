"""The image probe compares one net under every objective, and leads are told by seed."""

from __future__ import annotations

import pytest

from bench.image_probe import (
    BASELINES,
    OBJECTIVES,
    PROBES,
    SLOWEST_FIRST,
    recipe_of,
    result,
)
from bench.study_tables import image_probe_table
from gobelin.shared.objective import OBJECTIVES as KINDS


@pytest.mark.parametrize("model", [*OBJECTIVES, *BASELINES])
def test_models_differ_in_their_objective_alone(model: str) -> None:
    recipe, lejepa = recipe_of(model), recipe_of("lejepa")
    assert recipe.model_copy(update={"objective": lejepa.objective}) == lejepa
    assert recipe.objective.slices == lejepa.objective.slices
    assert (recipe == lejepa) == (model in ("lejepa", *BASELINES))


def test_every_objective_for_images_is_compared() -> None:
    compared = {recipe_of(model).objective.kind for model in OBJECTIVES}
    assert compared == set(KINDS.builtin) - {"next_latent"}


def test_every_model_has_its_place_in_the_queue() -> None:
    assert set(SLOWEST_FIRST) == {*OBJECTIVES, *BASELINES}


def test_a_lead_is_over_the_best_other_of_each_seed() -> None:
    def run(value: float) -> dict[str, float]:
        return {**dict.fromkeys(PROBES, value), "seconds": 1.0}

    found = {
        ("lejepa", 0): run(90), ("vicreg", 0): run(88), ("byol", 0): run(80),
        ("lejepa", 1): run(90), ("vicreg", 1): run(70), ("byol", 1): run(91),
        ("supervised", 0): run(99), ("supervised", 1): run(99),
    }  # fmt: skip
    values = result(found, ["lejepa", "vicreg", "byol", "supervised"])
    assert (values["lead.tokens"]["min"], values["lead.tokens"]["max"]) == (-1, 2)
    assert values["accuracy"]["mean"] == 90
    facts = {"images_seen": 1, "labels": 2, "seeds": [0, 1], "machine": "m", "goal": "g"}
    facts |= {"recipe": "r", "seeds_of_others": [0, 1]}
    page = image_probe_table({**facts, **values})
    assert "| VICReg | 79.0 ± 12.7 |" in page
    assert "points | +0.5 ± 2.1 |" in page


def test_seeds_that_not_all_have_count_for_their_model_alone() -> None:
    runs = {("lejepa", 0): 90.0, ("lejepa", 1): 70.0, ("byol", 0): 80.0}
    found = {key: {**dict.fromkeys(PROBES, value), "seconds": 1.0} for key, value in runs.items()}
    values = result(found, ["lejepa", "byol"])
    assert (values["accuracy"]["mean"], values["byol.tokens"]["mean"]) == (80, 80)
    assert values["lead.tokens"]["mean"] == 10

"""The training step's bench trains one formula on both sides and tells what it found."""

from __future__ import annotations

import pytest
import torch

from bench import parity as parity_bench
from bench.speed_tables import train_step_table
from bench.train_step import WEIGHT, ReadyViews, TheirFormula, compare, recipe_of, whole
from gobelin.shared.errors import GobelinError
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.objective import Draw
from gobelin.shared.objective.sigreg import directions, sigreg


def test_the_formula_is_invariance_and_the_test_of_all_views_together() -> None:
    recipe = recipe_of("tiny", batch=8)
    assert recipe.objective.reference_batch == 4 * 8  # T itself is weighed
    z = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0))
    draw = Draw(torch.Generator(), slices=3)
    parts = TheirFormula(recipe.objective).loss(z, 2, draw)  # type: ignore[arg-type]
    invariance = (z[:2].mean(dim=0) - z).square().mean()
    statistic = sigreg(z.flatten(0, 1), directions(3, 16, recipe.objective.slices))
    torch.testing.assert_close(parts.total, invariance + WEIGHT * statistic)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_both_can_take_the_recipe_and_the_curve_has_views_of_one_size(name: str) -> None:
    (image,) = recipe_of(name, None).modalities.values()
    assert isinstance(image, ImageRecipe)
    assert image.stem == "patch"
    assert image.views.local_views >= 1
    (image,) = whole(recipe_of(name, None)).modalities.values()
    assert isinstance(image, ImageRecipe)
    assert image.views.local_size == image.image_size


def test_ready_views_come_in_turn_whatever_the_batch() -> None:
    batches = [[torch.full((1, 2), float(i))] for i in range(2)]
    views = ReadyViews(batches, leading=1)
    seen = [float(views(torch.empty(0), torch.Generator()).stacks[0][0, 0]) for _ in range(3)]
    assert seen == [0, 1, 0]


def test_the_turn_that_warms_up_does_not_count() -> None:
    theirs, ours = iter([1.0, 10.0, 30.0, 20.0]), iter([1.0, 50.0, 40.0, 60.0])
    found = compare((lambda: next(theirs), lambda: next(ours)), 3)
    assert found["images_per_s"] == {"stable_pretraining": 20, "gobelin": 50}
    assert (found["speedup"], found["speedup_best"]) == (2.5, 2.0)


def test_parity_is_the_worst_objective_and_none_may_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = iter([2.0, 2.0] * 3 + [2.0, 2.1] + [4.0, 4.0] * 3)
    monkeypatch.setattr(parity_bench, "first_loss", lambda recipe, device: next(losses))
    found = parity_bench.parity(torch.device("cpu"))
    assert found["max_rel_error"] == pytest.approx(0.05)
    monkeypatch.setattr(parity_bench, "ON_IMAGES", ["lejepa"])
    with pytest.raises(GobelinError, match="byol, info_nce, masked, vicreg"):
        parity_bench.parity(torch.device("cpu"))


def test_the_table_has_both_ways_to_train() -> None:
    rates = {"stable_pretraining": 100.0, "gobelin": 150.0}
    values = {
        **{key: {"images_per_s": rates, "speedup": 1.5} for key in ("step", "with_views")},
        "curve": {"gobelin": [1.0, 0.9], "max_rel_error": 1e-6},
        "parity": {"max_rel_error": 1e-5, "lejepa": {}, "vicreg": {}},
        "views": {"global_views": 2, "local_views": 6},
        **dict.fromkeys(("device", "recipe", "precision", "machine", "goal"), "x"),
        **dict.fromkeys(("batch", "repetitions", "threads", "loaders"), 1),
        "compiled": True,
    }
    page = train_step_table(values)
    assert "| on ready views | 100 | 150 | 1.50 |" in page
    assert "worst of 2 objectives: 1.0e-05" in page

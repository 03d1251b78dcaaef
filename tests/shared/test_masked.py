"""Masked prediction and BYOL: nothing leaks, and the losses are those of their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gobelin.shared.errors import ConfigError
from gobelin.shared.model import build_jepa
from gobelin.shared.model.masked_predictor import MaskedPredictor, grid_positions
from gobelin.shared.objective import Draw
from gobelin.shared.objective.byol import bootstrap_error
from gobelin.shared.objective.masked import Masked, MaskedRecipe
from gobelin.shared.objective.masks import BlockMasks, Masks, draw_masks
from gobelin.shared.objective.sigreg import directions, sigreg
from gobelin.shared.recipe import Recipe, TrunkRecipe, load_recipe
from gobelin.shared.seeds import generator_of

HOW = BlockMasks(min_keep=2)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recipe_of(**changed: Any) -> Recipe:
    values = load_recipe("toy").model_dump(mode="json")
    predictor = {"dim": 16, "depth": 1, "heads": 2}
    values["objective"] = {"kind": "masked", "slices": 16, "predictor": predictor, **changed}
    return Recipe.model_validate(values)


def images(count: int = 8) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=random)


def test_a_prediction_does_not_depend_on_what_is_masked() -> None:
    recipe = recipe_of()
    encoder = build_jepa(recipe, seed=0).encoder()
    masks = draw_masks((4, 4), 8, 1, HOW)
    hidden = torch.ones(8, 16, dtype=torch.bool).scatter(1, masks.context, False)
    pixels = hidden.view(8, 1, 4, 4).repeat_interleave(7, 2).repeat_interleave(7, 3)
    shown = images()
    other = torch.where(pixels, 255 - shown, shown)
    assert not torch.equal(other, shown)
    found = []
    for batch in (shown, other):
        embedded = encoder.tokenizer(encoder.prepare(batch))
        context = encoder.trunk(embedded.gather(1, masks.context[..., None].expand(-1, -1, 16)))
        assert encoder.predictor is not None
        found.append(encoder.predictor(context, masks, (4, 4)))
    assert torch.equal(found[0], found[1])
    assert found[0].shape == (*masks.targets.shape, recipe.projector.out)


def test_a_block_is_predicted_by_itself() -> None:
    torch.manual_seed(0)
    predictor = MaskedPredictor(TrunkRecipe(dim=16, depth=1, heads=2), 8, 5)
    masks, context = draw_masks((4, 4), 3, 1, HOW), sample(3, 16, 8)
    seen = context[:, : masks.context.shape[1]]
    together = predictor(seen, masks, (4, 4))
    alone = predictor(seen, Masks(masks.context, masks.targets[2:3]), (4, 4))
    torch.testing.assert_close(together[2:3], alone)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("grid", [(12,), (4, 5), (2, 3, 4)])
def test_every_place_of_a_grid_has_its_own_position(grid: tuple[int, ...]) -> None:
    found = grid_positions(grid, 32)
    assert found.shape == (int(np.prod(grid)), 32)
    assert torch.pdist(found).min() > 0.1


@pytest.mark.parametrize("weight", [0.0, 0.05, 1.0])
def test_the_loss_is_the_error_and_sigreg_place_by_place(weight: float) -> None:
    recipe = recipe_of(weight=weight, reference_batch=8)
    encoder, objective = build_jepa(recipe, seed=0).encoder(), recipe.objective_of()
    parts, features = objective(encoder, images(), Draw(generator_of(3, "views"), slices=5))
    z = encoder.projector(encoder.tokens(encoder.prepare(images())).flatten(0, 1))
    places = z.unflatten(0, (8, 16)).transpose(0, 1)
    slices = directions(5, recipe.projector.out, 16)
    test = torch.stack([sigreg(place, slices) for place in places]).mean()
    torch.testing.assert_close(parts.anti_collapse, test.detach())
    torch.testing.assert_close(parts.collapse, test.detach() / 8)
    expected = (1 - weight) * parts.prediction + weight * parts.anti_collapse
    torch.testing.assert_close(parts.total.detach(), expected)
    torch.testing.assert_close(
        features, encoder.features(encoder.prepare(images())).detach(), rtol=1e-4, atol=1e-5
    )


def test_without_a_teacher_targets_learn_and_with_one_they_do_not() -> None:
    """The projector is reached by targets alone: predictions are the predictor's own."""
    reached = {}
    for teacher in (False, True):
        recipe = recipe_of(weight=0.0, teacher=teacher)
        encoder, objective = build_jepa(recipe, seed=0).encoder(), recipe.objective_of()
        objective.begin(encoder)
        parts, _ = objective(encoder, images(), Draw(generator_of(3, "views"), slices=5))
        parts.total.backward()  # type: ignore[no-untyped-call]
        reached[teacher] = any(p.grad is not None for p in encoder.projector.parameters())
        assert all(p.grad is not None for p in encoder.trunk.parameters())
    assert reached == {False: True, True: False}


def test_one_token_cannot_be_masked() -> None:
    masked = Masked(MaskedRecipe())
    with pytest.raises(ConfigError, match="make more tokens"):
        masked._masks((1,), sample(4, 1, 8), torch.Generator())


def test_masks_that_cannot_be_drawn_are_refused_with_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"mask scale \[0.5, 0.2\]"):
        recipe_of(masks={"scale": [0.5, 0.2]})


def test_the_bootstrap_error_is_the_squared_distance_of_unit_vectors() -> None:
    predicted, targets = sample(2, 6, 4).requires_grad_(), sample(2, 6, 4, seed=1).requires_grad_()
    p, t = (x.detach().numpy() for x in (predicted, targets))
    p, t = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (p, t))
    loss = bootstrap_error(predicted, targets)
    assert loss.item() == pytest.approx(((p - t) ** 2).sum(-1).mean(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert targets.grad is None
    assert predicted.grad is not None

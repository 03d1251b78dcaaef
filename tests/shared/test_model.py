"""The model: shapes, determinism, sizes, and nothing hidden from the parameter vector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gobelin.shared.modality.image_tokenizer import ImageTokenizer, positions, stem_strides
from gobelin.shared.model import (
    Jepa,
    build_jepa,
    hollow_jepa,
    lent,
    weights_moved,
    weights_of,
)
from gobelin.shared.model.projector import Projector
from gobelin.shared.recipe import ProjectorRecipe, Recipe, load_recipe
from gobelin.shared.vector import ParameterVector


@pytest.fixture
def toy() -> Recipe:
    return load_recipe("toy")


def test_the_groups_of_the_vector_are_tokenizer_trunk_and_projector(toy: Recipe) -> None:
    schema = ParameterVector.of(build_jepa(toy, seed=0)).schema
    assert {spec.role for spec in schema.tensors} == {"tokenizers", "trunk", "projector"}


def test_images_become_tokens_features_and_projections(toy: Recipe) -> None:
    model, images = build_jepa(toy, seed=0).encoder(), torch.randn(3, 1, 28, 28)
    assert model.tokens(images).shape == (3, 16, 16)
    assert torch.equal(model.features(images), model.tokens(images).mean(dim=1))
    assert model(images).shape == (3, 8)


def test_views_pass_the_projector_as_one_batch(toy: Recipe) -> None:
    model, images = build_jepa(toy, seed=0).encoder(), torch.randn(2, 3, 1, 28, 28)
    small = torch.randn(4, 3, 1, 14, 14)
    features, projections = model.embed_views([images, small])
    assert features.shape == (6, 3, 16)
    assert projections.shape == (6, 3, 8)
    torch.testing.assert_close(features[1], model.features(images[1]))
    torch.testing.assert_close(projections.flatten(0, 1), model.projector(features.flatten(0, 1)))


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_random_state(
    toy: Recipe,
) -> None:
    before = torch.get_rng_state()
    digests = {ParameterVector.of(build_jepa(toy, seed=seed)).digest for seed in (0, 0, 1)}
    assert len(digests) == 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "millions"), [("small", 22), ("base", 86), ("large", 303)])
def test_recipes_have_the_sizes_of_their_vits(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = Jepa(load_recipe(name)).encoder("image")
    encoder = [*model.tokenizer.parameters(), *model.trunk.parameters()]
    assert sum(p.numel() for p in encoder) / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_hollow_model_computes_with_lent_weights_to_the_bit(toy: Recipe) -> None:
    images, hollow = torch.randn(3, 1, 28, 28), hollow_jepa(toy).eval()
    base, delta = (ParameterVector.of(build_jepa(toy, seed=seed)) for seed in (0, 1))
    for weights, vector in (
        (weights_of(base), base),
        (weights_moved(base, delta), base + delta),
    ):
        whole = build_jepa(toy, seed=2).eval()
        vector.load_into(whole)
        with torch.no_grad(), lent(hollow, weights):
            assert torch.equal(hollow.encoder()(images), whole.encoder()(images))


def test_lent_weights_go_back_even_when_the_model_fails(toy: Recipe) -> None:
    hollow, vector = hollow_jepa(toy), ParameterVector.of(build_jepa(toy, seed=0))
    with pytest.raises(RuntimeError), lent(hollow, weights_of(vector)):
        hollow.encoder()(torch.randn(3, 5, 28, 28))  # of more channels than it has
    assert all(parameter.is_meta for parameter in hollow.parameters())
    images = torch.randn(3, 1, 28, 28, device="meta")
    hollow.encoder()(images)  # nothing of the loan is left in its way


def test_a_new_trunk_is_near_the_identity() -> None:
    model = build_jepa(load_recipe("tiny"), seed=0).encoder()
    tokens = model.tokenizer(torch.randn(4, 1, 28, 28))
    encoded, plain = model.trunk(tokens), model.trunk.norm(tokens)
    cosine = torch.nn.functional.cosine_similarity(encoded, plain, dim=-1)
    assert cosine.mean() > 0.5


def test_the_trunk_has_no_batchnorm(toy: Recipe) -> None:
    model = build_jepa(toy, seed=0)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.trunk.modules())
    assert not list(model.buffers())


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_the_projector_ends_in_a_plain_linear(norm: str) -> None:
    projector = Projector(ProjectorRecipe.model_validate({"norm": norm}), dim=8)
    assert isinstance(projector.layers[-1], nn.Linear)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "strides"),
    [(28, 7, (2, 2, 2)), (224, 16, (4, 2, 2)), (224, 14, (7, 2, 1)), (32, 8, (2, 2, 2))],
)
def test_the_stem_leaves_as_many_tokens_as_patches_would(
    image_size: int, patch_size: int, strides: tuple[int, int, int]
) -> None:
    assert stem_strides(image_size, patch_size) == strides
    tokens = ImageTokenizer("conv", 1, image_size, patch_size, dim=16)(
        torch.zeros(1, 1, image_size, image_size)
    )
    assert tokens.shape == (1, (image_size // patch_size) ** 2, 16)


def test_positions_differ_everywhere_and_span_the_same_extent_on_any_grid() -> None:
    full, crop = positions(4, 4, 32, extent=4), positions(2, 2, 32, extent=4)
    assert torch.pdist(full).min() > 0.1
    # A cell of the coarse grid lies in the middle of the four fine cells it covers.
    centre = full.view(2, 2, 2, 2, 32).mean(dim=(1, 3)).view(4, 32)
    assert torch.equal(torch.cdist(crop, centre).argmin(dim=1), torch.arange(4))


def test_positions_tell_rows_from_columns() -> None:
    grid = positions(3, 3, 16, extent=3).view(3, 3, 16)
    assert torch.equal(grid[0, 1, :8], grid[0, 2, :8])  # the first half is the row's
    assert torch.equal(grid[1, 0, 8:], grid[2, 0, 8:])  # the second the column's
    assert not torch.equal(grid[0, 1], grid[1, 0])

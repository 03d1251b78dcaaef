"""Vectors as a modality: one token each, scaled alike on every node."""

from __future__ import annotations

import pytest
import torch

from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.modality.vector import Vector, VectorRecipe
from gobelin.shared.seeds import generator_of

MODALITY = Vector(VectorRecipe(channels=3, scale=2.0))


def test_a_vector_becomes_one_token_and_two_views() -> None:
    batch = MODALITY.made_up(5, generator_of(0, "made up"))
    MODALITY.check(batch)
    assert MODALITY.tokenizer(8)(MODALITY.prepare(batch)).shape == (5, 1, 8)
    views = MODALITY.views(batch, generator_of(1, "views"))
    again = MODALITY.views(batch, generator_of(1, "views"))
    assert views.stacks[0].shape == (2, 5, 3)
    assert torch.equal(views.stacks[0], again.stacks[0])
    assert not torch.equal(views.stacks[0][0], views.stacks[0][1])


def test_no_noise_and_nothing_dropped_leaves_the_values() -> None:
    still = Vector(VectorRecipe(channels=3, scale=2.0, noise=0.0, dropped=0.0))
    batch = still.made_up(5, generator_of(0, "made up"))
    torch.testing.assert_close(still.views(batch, generator_of(1, "v")).stacks[0][1], batch / 2)


@pytest.mark.parametrize(
    "batch", [torch.ones(2, 4), torch.ones(2, 3).double(), torch.full((2, 3), torch.nan)]
)
def test_other_vectors_are_refused(batch: torch.Tensor) -> None:
    with pytest.raises(DataError):
        MODALITY.check(batch)


def test_vectors_by_themselves_have_no_format() -> None:
    with pytest.raises(ConfigError, match="trajector"):
        _ = MODALITY.form

"""Carrying a delta over to another release, and reading it there with the old head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.client.sovereign.rebasing import (
    agrees_with_gradient,
    agrees_with_movement,
    align_head,
    carry,
    head_gradient,
)
from gobelin.shared.errors import ConfigError, SchemaMismatchError
from gobelin.shared.frame import Frame
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"a": (2,), "b": (2,)})
DIM, TOKENS, CLASSES = 4, 3, 5


def vector(*values: float) -> ParameterVector:
    return ParameterVector(SCHEMA, torch.tensor(values, dtype=torch.float32))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_of(seed, "drawn"))


def test_a_delta_is_copied_where_the_mask_lets_it() -> None:
    """By hand: |d|² = 1 + 4 + 4 + 16, of which 1 + 16 pass."""
    delta, onto = vector(1, -2, 2, 4), vector(10, 10, 10, 10)
    whole = carry(delta, onto)
    assert (whole.vector.values.tolist(), whole.kept) == ([11, 8, 12, 14], 1)
    part = carry(delta, onto, torch.tensor([True, False, False, True]), scale=0.5)
    assert part.vector.values.tolist() == [10.5, 10, 10, 12]
    assert part.kept == pytest.approx(17 / 25)
    with pytest.raises(SchemaMismatchError):
        carry(delta, ParameterVector(ParameterSchema.of_shapes({"a": (4,)}), onto.values))


def test_a_build_that_moved_nothing_is_the_release_itself() -> None:
    still = carry(vector(0, 0, 0, 0), vector(1, 2, 3, 4))
    assert (still.vector.values.tolist(), still.kept) == ([1, 2, 3, 4], 1)


def test_masks_by_hand() -> None:
    delta = vector(1, -2, 2, -4).values
    assert agrees_with_movement(delta, vector(3, 1, 0, -1).values).tolist() == [1, 0, 1, 1]
    assert agrees_with_gradient(delta, vector(3, 1, 0, -1).values).tolist() == [0, 1, 1, 0]


@given(st.integers(0, 1000))
def test_a_masked_delta_goes_downhill_in_every_parameter(seed: int) -> None:
    """What the gradient's sign lets pass lowers a linear loss, parameter by parameter."""
    delta, gradient = drawn(seed, 50), drawn(seed + 1, 50)
    kept = torch.where(agrees_with_gradient(delta, gradient), delta, 0.0)
    assert bool((kept * gradient <= 0).all())


def a_head(kind: str) -> Head:
    head: Head = {
        "linear": lambda: LinearHead(TOKENS, DIM, CLASSES),
        "pooled": lambda: PooledHead(DIM, CLASSES),
        "attentive": lambda: AttentiveHead(DIM, CLASSES, 2),
    }[kind]()
    for at, (name, tensor) in enumerate(sorted(head.state_dict().items())):
        values = drawn(at, *tensor.shape)
        tensor.copy_(values.abs() + 0.5 if name.endswith("scale") else values)
    return head


@pytest.mark.parametrize("kind", ["linear", "pooled", "attentive"])
def test_an_aligned_head_answers_as_through_the_frame(kind: str) -> None:
    head, tokens = a_head(kind), drawn(7, 6, TOKENS, DIM)
    frame = Frame(torch.linalg.qr(drawn(8, DIM, DIM)).Q)
    told = head.logits(frame.apply(tokens))
    aligned = align_head(head, frame)
    assert torch.allclose(aligned.logits(tokens), told, atol=1e-4)
    assert not torch.allclose(head.logits(tokens), told, atol=1e-2)
    assert aligned.form() == head.form()


def test_a_head_of_a_kind_of_its_own_is_not_aligned() -> None:
    class Other(PooledHead):
        kind = "other"

        def form(self) -> dict[str, int]:
            return super().form()

    class Stranger(Head):
        kind = "stranger"
        classes = 2

        def logits(self, tokens: Tensor) -> Tensor:
            return tokens[:, 0, :2]

        def form(self) -> dict[str, int]:
            return {}

    frame = Frame(torch.eye(DIM))
    assert isinstance(align_head(Other(DIM, 2), frame), Other)
    with pytest.raises(ConfigError, match="stranger"):
        align_head(Stranger(), frame)


def test_the_gradient_is_that_of_the_regional_loss() -> None:
    """A small step against it lowers the loss by about its square norm, times the step."""
    recipe = load_recipe("toy")
    model = build_jepa(recipe, 0)
    encoder = model.encoder().eval()
    prepared = encoder.prepare(
        torch.randint(0, 256, (8, 1, 28, 28), generator=generator_of(0, "x")).to(torch.uint8)
    )
    labels = torch.arange(8) % 2
    tokens = encoder.tokens(prepared).shape[1]
    head = LinearHead(tokens, recipe.trunk.dim, 2)
    head.linear.weight.data.copy_(0.1 * drawn(3, *head.linear.weight.shape))

    def loss() -> float:
        with torch.no_grad():
            scores = head.logits(encoder.tokens(prepared))
            return float(torch.nn.functional.cross_entropy(scores.double(), labels))

    gradient, before, step = head_gradient(encoder, head, prepared, labels), loss(), 1e-3
    square = sum(float(part.square().sum()) for part in gradient.values())
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter -= step * gradient[name]
    assert square > 0
    assert before - loss() == pytest.approx(step * square, rel=0.1)

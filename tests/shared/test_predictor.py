"""The predictor: causal, silent at first, and its rollout is its own steps fed back."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from gobelin.shared.model.linear import linear
from gobelin.shared.model.predictor import Predictor
from gobelin.shared.recipe import PredictorRecipe

RECIPE = PredictorRecipe(dim=16, depth=2, heads=2, history=3)


def awake() -> Predictor:
    """A predictor whose zeros are random numbers, so that everything has an effect."""
    torch.manual_seed(0)
    predictor = Predictor(RECIPE, latent=4, condition=2)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return predictor


def test_a_new_predictor_says_that_nothing_happens_and_can_learn_otherwise() -> None:
    predictor = Predictor(RECIPE, latent=4, condition=2)
    latents, actions = torch.randn(5, 3, 4), torch.randn(5, 3, 2)
    assert torch.equal(predictor(latents, actions), latents)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    target = latents + actions.repeat(1, 1, 2)
    losses = []
    for _ in range(60):
        loss = (predictor(latents, actions) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("what", ["latents", "conditions"])
def test_no_position_sees_the_future(what: str) -> None:
    predictor = awake()
    latents, conditions = torch.randn(2, 3, 4), torch.randn(2, 3, 2)
    before = predictor(latents, conditions)
    changed = {"latents": latents.clone(), "conditions": conditions.clone()}
    changed[what][:, 2] += 1
    after = predictor(changed["latents"], changed["conditions"])
    assert torch.allclose(before[:, :2], after[:, :2], atol=1e-6)
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-3)


def test_the_condition_of_a_step_changes_what_follows_it() -> None:
    predictor = awake()
    start, actions = torch.randn(2, 4), torch.randn(2, 5, 2)
    other = actions.clone()
    other[:, 3] += 1
    one, two = predictor.rollout(start, actions), predictor.rollout(start, other)
    assert torch.allclose(one[:, :3], two[:, :3], atol=1e-6)
    assert not torch.allclose(one[:, 3], two[:, 3], atol=1e-3)


def test_a_rollout_is_its_own_predictions_fed_back_through_a_moving_window() -> None:
    predictor = awake()
    start, actions = torch.randn(2, 4), torch.randn(2, 5, 2)
    latents = [start]
    for t in range(5):
        first = max(0, t - 2)
        window = torch.stack(latents[first : t + 1], dim=1)
        latents.append(predictor(window, actions[:, first : t + 1])[:, -1])
    rolled = predictor.rollout(start, actions)
    assert torch.allclose(rolled, torch.stack(latents[1:], dim=1), atol=1e-4)


def test_teacher_forcing_and_one_step_of_rollout_agree() -> None:
    predictor = awake()
    latents, actions = torch.randn(2, 3, 4), torch.randn(2, 3, 2)
    forced = predictor(latents, actions)[:, 0]
    assert torch.allclose(predictor.rollout(latents[:, 0], actions[:, :1])[:, 0], forced, atol=1e-6)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValidationError, match="does not divide"):
        PredictorRecipe(dim=10, heads=4)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_a_rollout_of_any_length_is_learnt_through(length: int) -> None:
    """What is computed once only has the gradient of what is computed again and again."""
    predictor = awake().double()
    start, actions = (x.double() for x in (torch.randn(2, 4), torch.randn(2, length, 2)))
    latents = [start]
    for t in range(length):
        first = max(0, t - 2)
        window = torch.stack(latents[first : t + 1], dim=1)
        latents.append(predictor(window, actions[:, first : t + 1])[:, -1])
    parameters = list(predictor.parameters())
    slow = torch.autograd.grad(torch.stack(latents[1:]).sin().sum(), parameters)
    fast = torch.autograd.grad(predictor.rollout(start, actions).sin().sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(fast, slow, strict=True))


def test_what_is_foreseen_of_one_does_not_depend_on_the_others() -> None:
    predictor = awake()
    start, actions = torch.randn(3, 4), torch.randn(3, 5, 2)
    alone = predictor.rollout(start[1:2], actions[1:2])
    assert torch.allclose(predictor.rollout(start, actions)[1:2], alone, atol=1e-4)
    assert not list(predictor.buffers())


def test_it_runs_under_autocast() -> None:
    predictor = awake()
    start, actions = torch.randn(2, 4), torch.randn(2, 5, 2)
    with torch.no_grad():
        exact = predictor.rollout(start, actions)
        with torch.autocast("cpu", torch.bfloat16):
            rough = predictor.rollout(start, actions)
    assert float((rough - exact).norm() / exact.norm()) < 0.1


def test_heads_may_be_wider_than_the_model_as_lewms_are() -> None:
    recipe = PredictorRecipe(dim=192, heads=16, head_dim=64, mlp_ratio=2048 / 192)
    block = Predictor(recipe, latent=192, condition=10).blocks[0]
    assert block.attention.out.weight.shape == (192, 1024)
    assert block.mlp_in.weight.shape == (2048, 192)


@pytest.mark.parametrize("history", [1, 3])
def test_what_is_only_asked_is_what_is_learnt_from(history: int) -> None:
    """Without gradients other kernels multiply; what they foresee is the same to rounding."""
    torch.manual_seed(0)
    predictor = Predictor(RECIPE.model_copy(update={"history": history}), latent=4, condition=2)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    start, actions = torch.randn(40, 4), torch.randn(40, 6, 2)
    learnt = predictor.rollout(start, actions)
    assert learnt.requires_grad
    with torch.no_grad():
        asked = predictor.rollout(start, actions)
        forced = predictor(asked[:, :history], actions[:, :history])
    assert torch.allclose(asked, learnt, rtol=1e-4, atol=1e-4)
    assert torch.allclose(predictor(asked[:, :history], actions[:, :history]), forced, atol=1e-4)


def test_a_layer_asked_is_pytorchs_own_to_rounding() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(3, 5, 24)
    plain = layer(x)
    with torch.no_grad():
        assert torch.allclose(linear(x, layer), plain, atol=1e-5)
        assert torch.allclose(linear(x, layer, slice(8, 20)), plain[..., 8:20], atol=1e-5)
        assert torch.allclose(linear(x, layer, gelu=True), F.gelu(plain), atol=1e-5)
        strided = x.transpose(0, 1)[:, :2]
        assert torch.allclose(linear(strided, layer), layer(strided), atol=1e-5)
        wide = nn.Linear(24, 40, dtype=torch.float64)
        assert torch.equal(linear(x.double(), wide), wide(x.double()))
    linear(x, layer, slice(8, 20)).sum().backward()
    moved = layer.weight.grad.abs().sum(dim=1) > 0
    assert moved[8:20].all()
    assert not moved[:8].any()
    assert not moved[20:].any()


def test_of_a_moment_that_stands_alone_nothing_is_asked() -> None:
    """With a history of one, the value is all there is: queries and keys change nothing."""
    torch.manual_seed(0)
    predictor = Predictor(RECIPE.model_copy(update={"history": 1}), latent=4, condition=2)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    start, actions = torch.randn(2, 4), torch.randn(2, 4, 2)
    before = predictor.rollout(start, actions)
    attention = predictor.blocks[0].attention
    with torch.no_grad():
        attention.query_key_value.weight[: 2 * attention.inner].normal_()
    assert torch.equal(predictor.rollout(start, actions), before)
    with torch.no_grad():
        attention.query_key_value.weight[2 * attention.inner :].normal_()
    assert not torch.allclose(predictor.rollout(start, actions), before, atol=1e-3)

"""One sample's weight in a step is bounded, and hidden in noise of the stated scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gobelin.client.privacy.accounting import Spend, epsilon
from gobelin.client.privacy.gradients import Mechanism, PrivateGradients
from gobelin.client.privacy.noise import Secret
from gobelin.shared.model import build_jepa
from gobelin.shared.objective import Draw
from gobelin.shared.objective.per_example import require_per_example
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from tests.client.privacy.lower_bound import epsilon_at_least
from tests.client.privacy.recipes import BYOL, MASKED

pytest.importorskip("dp_accounting")
SECRET = Secret(bytes(32))
DRAW = Draw(generator_of(0, "unused"), 0)


class Weights(nn.Module):
    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))


class Linear:
    """Loss w · x of a sample x: its gradient is x itself."""

    def coupling(self, recipe: Any) -> str:
        return ""

    def trains(self, parameter: str) -> bool:
        return True

    def example_inputs(self, encoder: Any, batch: Any, draw: Draw) -> tuple[Tensor, ...]:
        return (batch,)

    def example_loss(self, encoder: Any, *inputs: Tensor) -> Tensor:
        return encoder.w @ inputs[0]


def linear(clip: float, noise: float, expected: float = 1.0, size: int = 2) -> Any:
    encoder: Any = Weights(size)
    return encoder, PrivateGradients(encoder, Linear(), Mechanism(clip, noise, expected))


def test_each_sample_is_clipped_by_itself_and_the_sum_is_over_the_expected_batch() -> None:
    encoder, gradients = linear(clip=1.0, noise=0.0, expected=4.0)
    batch = torch.tensor([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0]])
    # (3, 4) is 5 long: (0.6, 0.8); (0.3, 0.4) is half: as it is; (−6, 8) is 10 long: (−0.6, 0.8)
    total, _ = gradients.clipped_sum(batch, DRAW)
    assert torch.allclose(total["encoder.w"], torch.tensor([0.3, 2.0]))
    gradients(batch, DRAW, SECRET)
    assert torch.allclose(encoder.w.grad, torch.tensor([0.3, 2.0]) / 4)  # not over the three drawn


def test_no_sample_weighs_more_than_the_clip_norm_whatever_it_holds() -> None:
    _, gradients = linear(clip=0.5, noise=0.0)
    rest = torch.tensor([[1.0, 2.0]])
    without, _ = gradients.clipped_sum(rest, DRAW)
    for one in ([1e30, -1e30], [1e-30, 0.0], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]):
        total, _ = gradients.clipped_sum(torch.cat([rest, torch.tensor([one])]), DRAW)
        moved = float((total["encoder.w"] - without["encoder.w"]).norm())
        assert moved <= 0.5 * (1 + 1e-6), one


def test_noise_has_the_stated_scale_and_is_there_where_nobody_was_drawn() -> None:
    encoder, gradients = linear(clip=0.25, noise=3.0, expected=8.0, size=200_000)
    gradients(torch.empty(0, 200_000), DRAW, SECRET)
    noise = encoder.w.grad.double() * 8.0 / (3.0 * 0.25)
    assert abs(float(noise.mean())) < 5 / math.sqrt(len(noise))
    assert abs(float(noise.std()) - 1) < 5 / math.sqrt(2 * len(noise))
    assert abs(float((noise**4).mean()) - 3) < 5 * math.sqrt(96 / len(noise))  # a Gaussian's
    pairs = float((noise[:-1] * noise[1:]).mean()) * math.sqrt(len(noise))
    assert abs(pairs) < 5  # neighbours know nothing of each other


def test_noise_is_the_same_for_the_same_steps_and_of_its_own_for_any_others() -> None:
    values = torch.arange(10_000, dtype=torch.float32)
    noise = SECRET.gaussian(values)
    assert torch.equal(noise, SECRET.gaussian(values.clone()))
    others = values.clone()
    others[7] += 1e-3  # one datum differs: no difference of releases shows it
    for another in (SECRET.gaussian(others), SECRET.derive("step", 2).gaussian(values)):
        correlation = float((noise * another).mean())
        assert abs(correlation) < 5 / math.sqrt(len(values))


@pytest.mark.parametrize("recipe", [MASKED, BYOL], ids=["masked", "byol"])
def test_the_sum_of_samples_gradients_is_that_of_single_samples(recipe: Recipe) -> None:
    encoder = build_jepa(recipe, 0).encoder()
    objective = require_per_example(recipe.objective_of(), recipe)
    objective.begin(encoder)  # type: ignore[attr-defined]
    gradients = PrivateGradients(encoder, objective, Mechanism(1e6, 0.0, 1.0))
    batch = torch.randint(0, 256, (5, 1, 28, 28), generator=generator_of(1), dtype=torch.uint8)
    total, losses = gradients.clipped_sum(batch, Draw(generator_of(2), 0))
    inputs = objective.example_inputs(encoder, batch, Draw(generator_of(2), 0))
    for sample in range(5):
        loss = objective.example_loss(encoder, *(part[sample] for part in inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.allclose(loss, losses[sample], atol=1e-6)
    for name, parameter in encoder.named_parameters():
        if objective.trains(name):
            assert parameter.grad is not None, name
            assert torch.allclose(total[f"encoder.{name}"], parameter.grad, atol=1e-5), name
        else:
            assert f"encoder.{name}" not in total


@pytest.mark.parametrize("recipe", [MASKED, BYOL], ids=["masked", "byol"])
def test_what_a_sample_gives_does_not_depend_on_who_else_was_drawn(recipe: Recipe) -> None:
    """The inputs are functions of a sample and of randomness: the loss is one of its own."""
    encoder = build_jepa(recipe, 0).encoder()
    objective = require_per_example(recipe.objective_of(), recipe)
    objective.begin(encoder)  # type: ignore[attr-defined]
    random = generator_of(1)
    batch = torch.randint(0, 256, (4, 1, 28, 28), generator=random, dtype=torch.uint8)
    others = batch.clone()
    others[1:] = torch.randint(0, 256, (3, 1, 28, 28), generator=random, dtype=torch.uint8)
    found = []
    for drawn in (batch, others):
        inputs = objective.example_inputs(encoder, drawn, Draw(generator_of(2), 0))
        found.append(objective.example_loss(encoder, *(part[0] for part in inputs)))
    assert torch.allclose(found[0], found[1], atol=1e-6)


def canary_scores(noise: float, trials: int = 400) -> tuple[Any, Any, Mechanism]:
    """Who looks along the canary's gradient at noised sums with it, and without."""
    _, gradients = linear(clip=1.0, noise=noise, size=50)
    rest = torch.randn(20, 50, generator=generator_of(3))
    canary = torch.zeros(1, 50)
    canary[0, 0] = 9.0
    sums = []
    for batch in (torch.cat([rest, canary]), rest):
        total, _ = gradients.clipped_sum(batch, DRAW)
        sums.append(total["encoder.w"].double())
    scores = [
        np.array([float((each + noise * SECRET.derive(t, which).gaussian(each))[0])
                  for t in range(trials)])
        for which, each in enumerate(sums)
    ]  # fmt: skip
    return scores[0], scores[1], gradients.mechanism


def test_canaries_refute_training_without_noise_and_not_the_stated_budget() -> None:
    delta = 1e-5
    told = epsilon([Spend(2.0, 1.0, 1)], delta)  # what σ = 2 promises: about 2
    honest = epsilon_at_least(*canary_scores(2.0)[:2], delta)
    assert honest <= told
    cheat = epsilon_at_least(*canary_scores(1e-6)[:2], delta)  # the noise was left out
    assert cheat > told
    weak = epsilon_at_least(*canary_scores(0.2)[:2], delta)  # a tenth of it was added
    assert weak > told

"""The collapse alarm fires on injected collapse, names its kind, and is quiet on sound models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gobelin.shared.alarm import Collapse, collapse_alarm
from gobelin.shared.health import Health, measure_health
from gobelin.shared.model import build_jepa
from gobelin.shared.objective.objective import LeJepaRecipe
from gobelin.shared.objective.sigreg import directions, sigreg
from gobelin.shared.objective.vicreg import invariance
from gobelin.shared.recipe import load_recipe

OBJECTIVE = LeJepaRecipe(slices=64)
DIM = 64


def gaussian(dim: int = DIM, seed: int = 0) -> Tensor:
    return torch.randn(256, dim, generator=torch.Generator().manual_seed(seed))


def health(features: Tensor, projections: Tensor | None = None) -> Health:
    projected = gaussian(16, seed=1) if projections is None else projections
    return measure_health(features, projected, OBJECTIVE, seed=0)


def of_rank(rank: int) -> Tensor:
    """Features within `rank` of DIM dimensions."""
    return gaussian(rank) @ torch.linalg.qr(gaussian()).R[:rank] + 1


def kind(now: Health, sound: Health | None = None) -> Collapse | None:
    alarm = collapse_alarm(now, sound)
    return None if alarm is None else alarm.kind


@pytest.mark.parametrize("dust", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_one_point_is_found_under_dust(dust: float, offset: float) -> None:
    features = offset * (1 + dust * gaussian())
    assert kind(health(features)) is Collapse.POINT
    assert kind(health(gaussian(), features)) is Collapse.POINT


def test_projections_that_shrink_onto_the_origin_are_a_point() -> None:
    small = health(gaussian(), 0.03 * gaussian(16, seed=1))
    assert kind(small) is None  # so may an untrained projector begin
    assert kind(small, health(gaussian(), 0.3 * gaussian(16, seed=1))) is None
    assert kind(small, health(gaussian())) is Collapse.POINT


def test_features_that_shrank_are_a_point_beside_what_they_were() -> None:
    small = health(1e-3 * gaussian())
    assert kind(small) is None  # features have no scale of their own
    assert kind(small, health(gaussian())) is Collapse.POINT


@pytest.mark.parametrize("dust", [0.0, 0.02])
def test_one_direction_is_a_line(dust: float) -> None:
    line = of_rank(1) + dust * gaussian(seed=3)
    assert kind(health(line)) is Collapse.LINE
    assert kind(health(gaussian(), line)) is Collapse.LINE


def test_few_directions_of_many_are_dimensional_collapse() -> None:
    sound = health(of_rank(32))
    assert kind(health(of_rank(4)), sound) is Collapse.DIMENSIONAL
    of_projections = health(of_rank(32), gaussian(3) @ gaussian(16, seed=1)[:3])
    assert kind(of_projections, sound) is Collapse.DIMENSIONAL


def test_an_alarm_says_by_which_figure() -> None:
    alarm = collapse_alarm(health(of_rank(4)), health(of_rank(32)))
    assert alarm is not None
    assert "features' effective rank is" in alarm.found


@pytest.mark.parametrize(
    "features",
    [
        gaussian(),
        5 + gaussian(),
        1e-3 * gaussian(),
        gaussian() / torch.arange(1, DIM + 1),  # a spectrum that falls like a sound model's
        torch.relu(gaussian()),
        of_rank(4),
    ],
    ids=["white", "offset", "small", "power law", "sparse", "low rank from the start"],
)
def test_sound_features_raise_no_alarm(features: Tensor) -> None:
    assert kind(health(features), health(features)) is None


def test_a_rank_that_falls_as_in_sound_federated_runs_raises_no_alarm() -> None:
    assert kind(health(of_rank(14)), health(of_rank(32))) is None


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_model_raises_no_alarm(seed: int) -> None:
    recipe = load_recipe("tiny")
    model = build_jepa(recipe, seed).encoder().eval()
    with torch.no_grad():
        features = model.features(gaussian(28 * 28)[:64].view(-1, 1, 28, 28))
        now = measure_health(features, model.projector(features), recipe.objective, seed)
    assert kind(now) is None


def trained(weight: float) -> tuple[Health, Health]:
    """Health before and after training two noisy views to agree, with λ = weight of SIGReg."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 32))
    projector = nn.Sequential(nn.GELU(), nn.Linear(32, 16))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], lr=1e-2)
    data = gaussian(16)

    def look() -> Health:
        with torch.no_grad():
            return measure_health(encoder(data), projector(encoder(data)), OBJECTIVE, seed=0)

    before = look()
    for step in range(150):
        views = torch.stack([data + 0.3 * gaussian(16, seed=2 * step + v + 9) for v in (0, 1)])
        z = projector(encoder(views))
        loss = (1 - weight) * invariance(z)
        loss = loss + weight * sigreg(z, directions(step, 16, 64)) / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, look()


def test_training_without_anti_collapse_rings_and_with_it_does_not() -> None:
    before, collapsed = trained(weight=0.0)
    assert kind(before) is None
    assert kind(collapsed, before) is Collapse.POINT
    before, sound = trained(weight=0.05)
    assert kind(sound, before) is None

"""The remedies of the split world do what their papers say, before anyone compares them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.split_rounds import (
    Drift,
    Proximal,
    Setting,
    average_role,
    federate,
    layerwise,
    renew_inner,
)
from bench.two_rooms import Film, Member
from gobelin.server.outer import Nesterov
from gobelin.shared.vector import ParameterSchema, ParameterVector
from gobelin.shared.worlds import REGIONS


@pytest.fixture(scope="module")
def films() -> list[Film]:
    return [Film.of(region, 8, seed) for seed, region in enumerate(REGIONS.values())]


def trained(films: list[Film]) -> list[Member]:
    members = [Member(film, seed, 4, 1e-3) for seed, film in enumerate(films)]
    for member in members:
        torch.manual_seed(0)
        for parameter in member.model.parameters():
            parameter.grad = torch.randn_like(parameter) * (1 + member.seed)
        member.optimizer.step()
    return members


def digest(films: list[Film], setting: Setting) -> str:
    return ParameterVector.of(federate(films, 0, 4, setting)).digest


def gradients(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize(
    "changes",
    [
        {"cross_node": "moments"},
        {"inner": "averaged"},
        {"inner": "reset"},
        {"outer": Nesterov(1.0, 0.5)},
        {"proximal": 0.1},
        {"drift": True},
        {"layerwise": True},
        {"often": "encoder"},
        {"late": True},
        {"anchor": 1.0},
    ],
)
def test_every_remedy_repeats_to_the_byte_and_changes_the_consensus(films, changes):
    remedied = Setting(local_steps=2, **changes)
    assert digest(films, remedied) == digest(films, remedied)
    assert digest(films, remedied) != digest(films, Setting(local_steps=2))


def test_the_inner_state_is_the_mean_or_nothing_after_a_round(films):
    members = trained(films)
    states = [m.optimizer.state[next(iter(m.model.parameters()))] for m in members]
    mean = torch.stack([state["exp_avg"] for state in states]).mean(dim=0)
    renew_inner(members, "averaged")
    assert all(torch.equal(state["exp_avg"], mean) for state in states)
    renew_inner(members, "reset")
    assert not any(state[name].any() for state in states for name in ("exp_avg_sq", "step"))


def test_only_the_role_that_is_averaged_often_becomes_equal(films):
    members = trained(films)
    average_role(members, "encoder")
    first, second = (dict(member.model.named_parameters()) for member in members[:2])
    for name, parameter in first.items():
        assert torch.equal(parameter, second[name]) == name.startswith("encoder.")


def test_the_proximal_gradient_points_away_from_the_base():
    model = nn.Linear(2, 1)
    correction = Proximal(model, 0.5)
    with torch.no_grad():
        model.weight.add_(3.0)
    gradients(model, 1.0)
    correction(model)
    torch.testing.assert_close(model.weight.grad, torch.full((1, 2), 2.5))
    torch.testing.assert_close(model.bias.grad, torch.ones(1))


def test_drift_correction_makes_members_with_constant_gradients_step_alike():
    models = [nn.Linear(2, 1) for _ in range(3)]
    drifts = [Drift(model) for model in models]
    for _ in range(2):  # in the second round with what the first one said
        for value, (model, drift) in enumerate(zip(models, drifts, strict=True)):
            for _ in range(4):
                gradients(model, float(value))
                drift(model)
        last = [model.weight.grad for model in models]
        Drift.exchange(drifts)
    assert all(torch.equal(gradient, torch.ones(1, 2)) for gradient in last)


def test_layerwise_weights_leave_out_who_moves_a_tensor_against_the_mean():
    schema = ParameterSchema.of_shapes({"a": (2,), "b": (2,)})
    deltas = torch.tensor([[1.0, 0, 1, 1], [1, 0, 3, 3], [-1, 0, 2, 2]])
    torch.testing.assert_close(layerwise(schema, deltas), torch.tensor([1.0, 0, 2, 2]))

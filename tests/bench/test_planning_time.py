"""What is timed is the same on both sides: each model's two forms foresee the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.planning_baseline import Baseline, given
from bench.planning_time import MODELS, OurRollout, models
from bench.world_tables import planning_time_table
from gobelin.shared.errors import ConfigError

KNOWN = models(torch.device("cpu"))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_rollout_is_the_model_stepped_through_windows(name: str) -> None:
    model = KNOWN[name]
    start, actions = torch.randn(2, model.latent), torch.randn(2, 5, model.action)
    latents, conditions = [start], model.embed(actions)
    for t in range(5):
        first = max(0, t + 1 - model.history)
        window = torch.stack(latents[first:], dim=1)
        done = slice(first, t + 1)
        latents.append(model.step(window, conditions[:, done])[:, -1])
        ours = model.ours(window, actions[:, done])[:, -1]
        assert torch.allclose(ours, latents[-1], atol=1e-5)
    windowed = torch.stack(latents[1:], dim=1)
    assert torch.allclose(model.imagine(start, actions), windowed, atol=1e-4)
    assert float((windowed[:, -1] - start).norm()) > 0.01  # random weights do something
    rough = model.rough(start.bfloat16(), actions.bfloat16()).float()
    assert float((rough - windowed).norm() / windowed.norm()) < 0.1


def test_the_cost_their_solver_is_given_is_the_distance_to_the_goal() -> None:
    model = KNOWN["two_room"]
    z0, goal = torch.randn(2, 3, model.latent)
    actions = torch.randn(3, 4, 5, model.action)
    info = {k: v[:, None].expand(-1, 4, *v.shape[1:]) for k, v in given(z0, goal).items()}
    ends = model.imagine(z0.repeat_interleave(4, 0), actions.flatten(0, 1))[:, -1].view(3, 4, -1)
    expected = (ends - goal[:, None]).square().mean(dim=-1)
    assert torch.allclose(OurRollout(model).get_cost(info, actions), expected, atol=1e-5)


def test_a_missing_baseline_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stable_worldmodel"):
        Baseline(tmp_path)


def test_the_table_names_what_was_measured() -> None:
    figures = {"mean": 2.5, "sd": 0.1}
    values = {
        "models": ["lewm"], "starts": [1], "samples": 300, "iterations": 30, "horizon": 5,
        "elites": 30, "device": "cpu", "threads": 1, "machine": "here", "speedup": 2.5,
        "goal": "at least 2", "lewm.1.speedup": figures,
    }  # fmt: skip
    row = planning_time_table(values).splitlines()[-1]
    assert row.startswith("| lewm, 1 at once |")
    assert "2.50 ± 0.10" in row

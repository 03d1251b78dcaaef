"""A tiny world model of two rooms that sees positions: trained in seconds, for tests."""

from __future__ import annotations

import numpy as np
import torch

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe
from gobelin.shared.settings import parse_settings
from gobelin.shared.vector import ParameterVector
from gobelin.shared.worlds import TwoRoom

RECIPE = parse_settings(
    Recipe,
    """
name = "positions"
[modalities.robot]
kind = "trajectory"
actions = 2
action_scale = 0.1
steps = 6
[modalities.robot.observation]
kind = "vector"
channels = 2
scale = 0.5
hidden = 32
[modalities.robot.objective]
kind = "next_latent"
slices = 64
predictor = { dim = 32, depth = 1, heads = 2, mlp_ratio = 2.0, history = 1 }
[trunk]
dim = 32
depth = 1
heads = 2
mlp_ratio = 2.0
[projector]
hidden = 32
out = 4
norm = "layer"
[inner]
batch_size = 64
lr = 4e-3
weight_decay = 1e-3
""",
    where="the test's recipe",
)


def episodes(count: int, steps: int, seed: int) -> Trajectories:
    """Episodes whose observations are positions."""
    shown = TwoRoom().episodes(count, steps, seed)
    return Trajectories(torch.from_numpy(shown.positions), torch.from_numpy(shown.actions))


def untrained() -> ParameterVector:
    return ParameterVector.of(build_jepa(RECIPE, seed=0))


def trained(steps: int) -> ParameterVector:
    shown = episodes(2000, 6, seed=1)

    def batches(step: int) -> Trajectories:
        rows = np.random.default_rng(step).integers(2000, size=64)
        return Trajectories(shown.observations[rows], shown.actions[rows])

    trainer = LocalTrainer(RECIPE, batches)
    vector, _ = trainer.train(untrained(), LocalSteps(0, steps, steps, seed=0, node_seed=0))
    return vector

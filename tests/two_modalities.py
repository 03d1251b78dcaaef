"""A toy federation's recipe with two modalities, and private data of either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gobelin.shared.data.export import write_idx

RECIPE = """
name = "two_modalities"

[modalities.image]
kind = "image"
image_size = 14
channels = 1
patch_size = 7

[modalities.image.views]
global_views = 2
local_views = 0
saturation = 0.0
hue = 0.0
grey = 0.0
blur = 0.0
solarize = 0.0

[modalities.robot]
kind = "trajectory"
actions = 2
steps = 3

[modalities.robot.observation]
kind = "vector"
channels = 4
hidden = 8

[modalities.robot.objective]
kind = "next_latent"
slices = 16
reference_batch = 16

[modalities.robot.objective.predictor]
dim = 8
depth = 1
heads = 2
mlp_ratio = 1.0
history = 2

[trunk]
dim = 16
depth = 1
heads = 2
mlp_ratio = 2.0

[projector]
hidden = 16
out = 8
norm = "layer"

[objective]
kind = "lejepa"
slices = 16
reference_batch = 16

[inner]
batch_size = 16
lr = 1e-3
"""


def write_recipe(folder: Path) -> Path:
    """The recipe as a file."""
    file = folder / "two_modalities.toml"
    file.write_text(RECIPE)
    return file


def write_images(folder: Path, seed: int) -> Path:
    """48 labelled images of noise."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (48, 1, 14, 14), dtype=np.uint8))
    write_idx(folder, pixels, torch.arange(48) % 2)
    return folder


def write_episodes(folder: Path, seed: int) -> Path:
    """Four episodes of a random walk."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(4):
        actions = rng.standard_normal((12, 2)).astype(np.float32)
        seen = np.zeros((13, 4), np.float32)
        seen[1:, :2] = np.cumsum(actions, axis=0) / 4
        seen[1:, 2:] = actions
        np.savez(folder / f"{number}.npz", observations=seen, actions=actions)
    return folder

"""What a node trains with: its device and precision, its data, and the trainer of a recipe."""

from __future__ import annotations

from typing import Any, Literal

import torch

from gobelin.client.crew import Leader
from gobelin.client.home import MachineSettings, NodeSettings, PrivacySettings
from gobelin.client.privacy.noise import Secret
from gobelin.client.privacy.training import PrivateTrainer
from gobelin.client.shadow.held_out import Parts, parts_of
from gobelin.client.trainer import LocalTrainer
from gobelin.shared.data import BatchStream, Source
from gobelin.shared.errors import ConfigError, PrivacyError
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import Recipe


def open_data(settings: NodeSettings, recipe: Recipe) -> Source[Any]:
    """A node's data as a recipe's modality; raises DataError and ConfigError."""
    data = settings.data
    return recipe.modality(data.modality).open(
        data.path, memory=data.cache_mb * 2**20, on_bad=data.on_bad
    )


def open_parts(settings: NodeSettings, recipe: Recipe) -> Parts:
    """A node's data, those that train apart from those it holds out; raises as `open_data`."""
    source, modality = open_data(settings, recipe), recipe.modality(settings.data.modality)
    return parts_of(settings, source, modality.form)


def build_trainer(
    settings: NodeSettings, recipe: Recipe, seed: int, source: Source[Any] | None = None
) -> LocalTrainer:
    """The trainer of a recipe on the node's data, in the order of `seed`; it leads a crew's.

    `source` are the samples that train, where they are open already.
    """
    compute, data = settings.compute, settings.data
    if compute.threads:
        torch.set_num_threads(compute.threads)
    source = source if source is not None else open_parts(settings, recipe).kept
    stream = BatchStream(source, recipe.inner.batch_size, seed)
    device = pick_device(compute)
    precision = pick_precision(compute, device)
    common = (recipe, stream.batch, device, precision, compute.compile)
    ranks = Ranks.here()
    if ranks is None or ranks.rank > 0:
        return LocalTrainer(*common, modality=data.modality)
    return Leader(*common, modality=data.modality, seed=seed)


def build_private_trainer(
    settings: NodeSettings,
    privacy: PrivacySettings,
    recipe: Recipe,
    secret: bytes,
    source: Source[Any],
) -> PrivateTrainer:
    """As `build_trainer`, with differential privacy; raises PrivacyError where it cannot be.

    Samples that cannot be read are never skipped: another would stand in, and weigh twice. It is
    all fp32: what bf16 rounds in a clipped gradient is not accounted for.
    """
    compute, data = settings.compute, settings.data
    if data.on_bad != "refuse":
        raise PrivacyError(
            "private training skips no bad samples, for others would stand in for them",
            'mend or remove them, and set data.on_bad = "refuse" in node.toml',
        )
    if compute.threads:
        torch.set_num_threads(compute.threads)
    device = pick_device(compute)
    return PrivateTrainer(
        recipe, source, privacy, Secret(secret), device, "fp32", modality=data.modality
    )


def pick_device(compute: MachineSettings) -> str:
    """The torch device of the settings; raises ConfigError when this machine lacks it."""
    wanted = compute.device
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, ValueError):
        raise ConfigError(
            f"compute.device = {wanted!r} is not usable on this machine",
            "use cpu or auto, or install a torch build for that device",
        ) from None
    return wanted


def pick_precision(compute: MachineSettings, device: str) -> Literal["fp32", "bf16"]:
    """bf16 where asked for, or by itself on a GPU that has it."""
    if compute.precision != "auto":
        return compute.precision
    return "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"

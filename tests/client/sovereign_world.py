"""A region and its consensus for tests of the sovereign build: toy sizes, made in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gobelin.client.sovereign import BuildSettings
from gobelin.client.sovereign.consensus import Consensus
from gobelin.client.sovereign.lineage import Origin
from gobelin.shared.data import MemorySource
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import ParameterVector

NAMES = ("high", "low")
QUICK = {"steps": 12, "every": 4, "batch_size": 8, "lr": 5e-3, "least_gain": 0.0}


def halves(count: int, seed: int = 0, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) that are brighter above or below, and which (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, generator=generator) > share).long()
    images = torch.randint(0, 150, (count, 1, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 14 * label : 14 * label + 14] += 12
    return images.to(torch.uint8), labels


def labelled(count: int = 60, seed: int = 0, share: float = 0.5) -> MemorySource:
    """The same, as a source."""
    return MemorySource(*halves(count, seed, share), NAMES)


def consensus(recipe: Recipe | None = None, seed: int = 0) -> Consensus:
    """An untrained model that passes for a consensus."""
    recipe = recipe or load_recipe("toy")
    vector = ParameterVector.of(build_jepa(recipe, seed))
    return Consensus(recipe, vector, Origin(round=1, vector_digest=vector.digest))


def settings(method: str = "full", **changes: Any) -> BuildSettings:
    """A build of a few steps."""
    values: dict[str, Any] = {"release": "-", "data": "-", "out": "-", "unverified": True}
    quick: dict[str, Any] = {"tuning": dict(QUICK), "compute": {"device": "cpu"}}
    quick["evaluation"] = {"report": False}  # what is tested in test_sovereign_gated_build
    for key, value in changes.items():
        quick[key] = {**quick.get(key, {}), **value} if isinstance(value, dict) else value
    return BuildSettings.model_validate({**values, "method": method, **quick})


def shrunk(name: str) -> Recipe:
    """A built-in recipe at the size of the toy one."""
    values = load_recipe(name).model_dump(mode="json")
    values["trunk"] |= {"dim": 16, "depth": 1, "heads": 2}
    values["projector"] |= {"hidden": 16, "out": 8}
    values["objective"] |= {"slices": 16, "reference_batch": 16}
    values["inner"]["batch_size"] = 16
    return Recipe.model_validate(values)


def made_up(recipe: Recipe, count: int = 48) -> MemorySource:
    """Labelled samples of a recipe's modality, out of nothing."""
    samples = recipe.modality().made_up(count, torch.Generator().manual_seed(0))
    return MemorySource(samples, torch.arange(count) % 2, ("a", "b"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

"""A small regional task: where a bright square lies in a noisy picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_image_folder
from gobelin.shared.evaluation.benchmarks import Classification, Contender, Read
from gobelin.shared.evaluation.embed import embed
from gobelin.shared.evaluation.probes import fit_head
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")
VECTOR = ParameterVector.of(build_jepa(RECIPE, 0))
CLASSES = 4
NAMES = ("north-west", "north-east", "south-west", "south-east")


def squares(count: int, seed: int, noise: float = 90.0) -> MemorySource:
    """Labelled uint8 pictures (N, 1, 28, 28); classes are quarters."""
    random = generator_of(seed, "squares")
    labels = torch.arange(count) % CLASSES
    pictures = 60 + noise * torch.randn(count, 1, 28, 28, generator=random)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        y, x = 14 * (label // 2), 14 * (label % 2)
        picture[0, y + 4 : y + 10, x + 4 : x + 10] += 90
    return MemorySource(pictures.clamp(0, 255).to(torch.uint8), labels, NAMES)


def task(train: int = 160, test: int = 200) -> Classification:
    """The region's."""
    return Classification("squares", squares(train, 0), squares(test, 1), CLASSES)


def model(role: str, seed: int = 0, head: Read | None = None) -> Contender:
    """A contender of the smallest recipe, at its start."""
    return Contender(role, build_jepa(RECIPE, seed).encoder(), head)


def fitted(contender: Contender, source: MemorySource, scale: float = 1.0) -> Contender:
    """The same with a head fitted on a source, whose logits are scaled."""
    known = embed(contender.encoder, source)
    probe = fit_head(known.tokens, known.labels, CLASSES)
    return Contender(
        contender.name, contender.encoder, lambda tokens: scale * probe.logits(tokens.flatten(1))
    )


def written(folder: Path, source: MemorySource) -> Path:
    """A source as a folder of pictures."""
    assert source.labels is not None
    write_image_folder(folder, source.read(np.arange(len(source))), source.labels, NAMES)
    return folder

"""Sovereign models of every modality, that nobody trained, as packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gobelin.client.sovereign.head import AttentiveHead, Head, LinearHead, PooledHead
from gobelin.client.sovereign.lineage import Lineage, Origin
from gobelin.client.sovereign.package import SovereignModel, write_package
from gobelin.shared.evaluation.attentive import AttentiveHead as Reader
from gobelin.shared.evaluation.probes import LinearHead as Probe
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.keys import signing_key

REGION = signing_key(501)
NAMES = ("high", "low", "level")

VECTOR = {"kind": "vector", "channels": 5, "hidden": 8, "scale": 2.0}
ROBOT = {"kind": "trajectory", "observation": VECTOR, "actions": 2, "action_scale": 0.5, "steps": 4}
PREDICTOR = {"dim": 16, "depth": 2, "heads": 2, "head_dim": 6, "mlp_ratio": 2.0, "history": 3}
NEXT = {"kind": "next_latent", "slices": 16, "reference_batch": 16, "predictor": PREDICTOR}


def small(name: str, **table: Any) -> Recipe:
    """A built-in recipe with a small trunk; `table` changes its only modality."""
    plain = load_recipe(name).model_dump(mode="json")
    plain["trunk"] |= {"dim": 24, "depth": 2, "heads": 2}
    plain["modalities"][next(iter(plain["modalities"]))] |= table
    return Recipe.model_validate(plain)


def robot() -> Recipe:
    """A world model of vectors that looks back."""
    plain = load_recipe("two_room").model_dump(mode="json")
    plain["trunk"] |= {"dim": 16, "depth": 1, "heads": 2}
    plain["modalities"] = {"robot": {**ROBOT, "objective": NEXT}}
    return Recipe.model_validate(plain)


def vector_of(recipe: Recipe, seed: int = 1) -> ParameterVector:
    """Random parameters, those that begin as zeros too: so that every one of them shows."""
    model = build_jepa(recipe, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return ParameterVector.of(model)


def head_of(kind: str, tokens: int, dim: int, seed: int = 0) -> Head:
    """A random head of three classes."""
    random = torch.Generator().manual_seed(seed)

    def probe(features: int) -> Probe:
        return Probe(torch.randn(3, features, generator=random), torch.arange(3.0))

    if kind == "linear":
        return LinearHead.of(probe(tokens * dim), dim)
    if kind == "pooled":
        return PooledHead.of(probe(dim))
    reader = Reader(dim, 3, 4, seed)
    reader.scale[1] = torch.inf  # a dimension that says nothing
    return AttentiveHead.of(reader)


def made(recipe: Recipe, head: str = "", *, seed: int = 1, **changes: Any) -> SovereignModel:
    """A model in memory, with a head of a kind where one is named."""
    vector = vector_of(recipe, seed)
    origin = Origin(federation="weavers", round=3, vector_digest=vector.digest)
    lineage = Lineage(region="north", release=origin, method=head or "none")
    bare = SovereignModel(recipe, vector, lineage)
    if head:
        shape = bare.tokens(samples_of(bare, 1)).shape
        changes |= {"head": head_of(head, shape[1], shape[2], seed), "class_names": NAMES}
    return SovereignModel(recipe, vector, lineage, **changes)


def package(
    folder: Path,
    recipe: Recipe,
    head: str = "",
    *,
    seed: int = 1,
    key: SigningKey = REGION,
    **changes: Any,
) -> SovereignModel:
    """Write a package, and read it."""
    return write_package(folder, made(recipe, head, seed=seed, **changes), key)


def samples_of(model: SovereignModel, count: int, seed: int = 0) -> Tensor:
    """Raw samples, made up."""
    random = torch.Generator().manual_seed(seed)
    made: Tensor = model.encoder.modality.made_up(count, random)
    return made

"""A recipe: everything that fixes what is trained, as a named, validated TOML.

All nodes of a federation train the same recipe; it travels inside the round plan.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from gobelin.shared.errors import ConfigError
from gobelin.shared.modality import MODALITIES, AnyModality, ModalityRecipe
from gobelin.shared.objective.objective import (
    OBJECTIVES,
    LeJepaRecipe,
    Objective,
    ObjectiveRecipe,
    ObjectiveTable,
)
from gobelin.shared.settings import Fraction, Positive, Settings, parse_settings, read_settings

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]  # part of parameters' names
ModalityTable = Annotated[SerializeAsAny[ModalityRecipe], MODALITIES.table()]


class TrunkRecipe(Settings):
    """The pre-norm transformer shared by all modalities."""

    dim: Positive = 384  # D, width of a token; a multiple of 4 and of heads
    depth: Positive = 12  # blocks
    heads: Positive = 6  # of attention in a block
    # hidden width of a block's MLP, in widths of a token
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> TrunkRecipe:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        if self.dim % 4:
            raise ValueError(f"dim = {self.dim} is no multiple of 4, as 2-D positions need")
        return self


class ProjectorRecipe(Settings):
    """The MLP in front of the objective; it ends in a plain Linear."""

    hidden: Positive = 2048  # width of its hidden layers
    out: Positive = 128  # width of a projection: what SIGReg tests
    norm: Literal["batch", "layer"] = "batch"  # of the hidden layers; never of the output


class PredictorRecipe(Settings):
    """The causal transformer that foresees latents.

    LeWM's own is heads = 16, head_dim = 64, mlp_ratio = 10.67.
    """

    dim: Positive = 192  # width of its tokens
    depth: Positive = 6  # blocks
    heads: Positive = 6  # of attention in a block
    head_dim: Positive | None = None  # width of a head; unset: dim / heads
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0  # hidden width of a block's MLP, in dim
    history: Positive = 3  # latents it looks back on

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> PredictorRecipe:
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self


class InnerRecipe(Settings):
    """The inner optimizer: AdamW with warm-up and cosine over the federation's whole schedule."""

    batch_size: Annotated[int, Field(ge=2)] = 128  # samples a local step, on every node
    lr: Annotated[float, Field(gt=0)] = 5e-4  # AdamW's learning rate after the warm-up
    final_lr: Annotated[float, Field(ge=0)] = 5e-7  # what the cosine ends at
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # AdamW's, of matrices alone
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # AdamW's β₁ and β₂
    warmup: Fraction = 0.05  # share of all steps of the federation in which lr rises from 0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0  # the most a step's gradient may be long


class Recipe(Settings):
    """A complete recipe."""

    name: str  # as releases and cards tell it
    # tables [modalities.NAME], one a kind of data: at least one
    modalities: Annotated[dict[Name, ModalityTable], Field(min_length=1)]
    trunk: TrunkRecipe
    projector: ProjectorRecipe = ProjectorRecipe()
    objective: ObjectiveTable = LeJepaRecipe()
    inner: InnerRecipe = InnerRecipe()

    def pick(self, modality: str | None) -> str:
        """The name of a modality of this recipe, of its only one if None; raises ConfigError."""
        names = ", ".join(sorted(self.modalities))
        if modality is None:
            if len(self.modalities) > 1:
                what = f"the recipe has several modalities: {names}"
                raise ConfigError(what, "say which one the data are of")
            return next(iter(self.modalities))
        if modality not in self.modalities:
            raise ConfigError(f"the recipe has no modality {modality!r}", f"it has {names}")
        return modality

    def told(self, modality: str | None) -> str:
        """How members tell their modality: by its name, or not at all where there is only one.

        Raises ConfigError.
        """
        name = self.pick(modality)
        return name if len(self.modalities) > 1 else ""

    @property
    def told_modalities(self) -> tuple[str, ...]:
        """What members may tell as their modality, sorted."""
        return tuple(sorted(self.modalities)) if len(self.modalities) > 1 else ("",)

    def modality(self, name: str | None = None) -> AnyModality:
        """One of its modalities, by name; the only one if None. Raises ConfigError."""
        table = self.modalities[self.pick(name)]
        return MODALITIES.load(table.kind)(table)

    def objective_of(self, modality: str | None = None) -> Objective[ObjectiveRecipe]:
        """The objective of a modality's local steps. Raises ConfigError."""
        table = self.modalities[self.pick(modality)].objective or self.objective
        return OBJECTIVES.load(table.kind)(table)

    def canonical(self) -> str:
        """Canonical JSON: what travels, and what the digest is over."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def __hash__(self) -> int:
        return hash(self.canonical())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with Gobelin."""
    folder = resources.files("gobelin.shared.recipes")
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load_recipe(name_or_path: str) -> Recipe:
    """A built-in recipe by name, or one from a TOML file; raises ConfigError."""
    if name_or_path in builtin_recipes():
        text = (
            resources.files("gobelin.shared.recipes").joinpath(f"{name_or_path}.toml").read_text()
        )
        return parse_settings(Recipe, text, where=f"recipe {name_or_path}")
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.exists():
        return read_settings(Recipe, path)
    known = ", ".join(builtin_recipes())
    raise ConfigError(f"no recipe {name_or_path!r}", f"use one of {known}, or a path to a .toml")

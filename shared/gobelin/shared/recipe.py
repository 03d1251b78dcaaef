"""A recipe: everything that fixes what is trained, as a named, validated TOML.

All nodes of a federation train the same recipe; it travels inside the round plan.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gobelin.shared.errors import ConfigError
from gobelin.shared.settings import Settings, parse_settings, read_settings

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class TokenizerRecipe(Settings):
    """How an image becomes tokens (B, N, D)."""

    kind: Literal["patch", "conv"] = "patch"  # linear patches, or three convolutions with GroupNorm
    image_size: Positive = 224
    channels: Literal[1, 3] = 3
    patch_size: Positive = 16  # pixels per token side (of `conv`, too: its strides multiply to it)


class TrunkRecipe(Settings):
    """The pre-norm transformer shared by all modalities."""

    dim: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
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

    hidden: Positive = 2048
    out: Positive = 128
    norm: Literal["batch", "layer"] = "batch"  # of the hidden layers; never of the output


class ViewsRecipe(Settings):
    """Multi-crop views and their photometric augmentation (LeJEPA, arXiv:2511.08544)."""

    global_views: Positive = 2
    local_views: Annotated[int, Field(ge=0)] = 0
    local_size: Positive = 96  # side of a local view in pixels; global views have image_size
    global_scale: Range = (0.3, 1.0)  # share of the image's area
    local_scale: Range = (0.05, 0.3)
    flip: Fraction = 0.5
    jitter: Fraction = 0.8  # probability; strengths below
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.2
    hue: Fraction = 0.1
    grey: Fraction = 0.2
    blur: Fraction = 0.5
    solarize: Fraction = 0.2

    @model_validator(mode="after")
    def _ranges_rise(self) -> ViewsRecipe:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} = [{low}, {high}] is not a range within (0, 1]")
        return self


class ObjectiveRecipe(Settings):
    """LeJEPA: (1 − λ) · view invariance + λ · SIGReg."""

    kind: Literal["lejepa"] = "lejepa"
    weight: Fraction = 0.05  # λ
    slices: Positive = 256  # M random directions a step
    knots: Positive = 17  # K quadrature nodes on [0, t_max]
    t_max: Annotated[float, Field(gt=0)] = 3.0
    reference_batch: Positive = 64  # N the statistic is normalised to, so λ means one thing

    @model_validator(mode="after")
    def _knots_odd(self) -> ObjectiveRecipe:
        if self.knots % 2 == 0 or self.knots < 3:
            raise ValueError(f"knots = {self.knots} must be odd and at least 3")
        return self


class InnerRecipe(Settings):
    """The inner optimizer: AdamW with warm-up and cosine over the federation's whole schedule."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Annotated[float, Field(gt=0)] = 5e-4
    final_lr: Annotated[float, Field(ge=0)] = 5e-7
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    warmup: Fraction = 0.05  # share of all steps of the federation
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


class Recipe(Settings):
    """A complete recipe."""

    name: str
    tokenizer: TokenizerRecipe
    trunk: TrunkRecipe
    projector: ProjectorRecipe = ProjectorRecipe()
    views: ViewsRecipe = ViewsRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    inner: InnerRecipe = InnerRecipe()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Recipe:
        patch = self.tokenizer.patch_size
        sizes = {"tokenizer.image_size": self.tokenizer.image_size}
        if self.views.local_views:
            sizes["views.local_size"] = self.views.local_size
        for key, size in sizes.items():
            if size % patch:
                raise ValueError(f"{key} = {size} is no multiple of patch_size = {patch}")
        return self

    def canonical(self) -> str:
        """Canonical JSON: what travels, and what the digest is over."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

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

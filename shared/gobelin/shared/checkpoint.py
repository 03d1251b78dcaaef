"""Checkpoints and releases: a folder with safetensors and a JSON manifest, whole or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.shared.errors import CheckpointError, StateError, VectorError
from gobelin.shared.files import folder_atomic, read_json, write_json
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector

FORMAT = "gobelin.checkpoint.v1"
MODEL = "model.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model at rest: its recipe, its parameter vector and what is recorded about its making.

    `facts` is free JSON (federation, round, contributions, ...); `extra` names further tensors
    kept beside the model, such as an outer optimizer's momentum.
    """

    recipe: Recipe
    vector: ParameterVector
    facts: Mapping[str, Any]
    extra: Mapping[str, Mapping[str, Tensor]]


def write_checkpoint(
    folder: Path,
    recipe: Recipe,
    vector: ParameterVector,
    facts: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint folder atomically; an older one of the same name is replaced."""
    extra = extra or {}
    with folder_atomic(folder) as tmp:
        save_file(_own(vector.tensors()), tmp / MODEL)
        for name, tensors in extra.items():
            save_file(_own(tensors), tmp / f"{name}.safetensors")
        files = [MODEL, *(f"{name}.safetensors" for name in extra)]
        write_json(
            tmp / MANIFEST,
            {
                "format": FORMAT,
                "recipe": recipe.model_dump(mode="json"),
                "recipe_digest": recipe.digest,
                "schema_digest": vector.schema.digest,
                "vector_digest": vector.digest,
                "parameters": vector.schema.size,
                "files": {name: file_digest(tmp / name) for name in files},
                "facts": dict(facts),
            },
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint folder; raises CheckpointError on any flipped bit."""
    remedy = "fetch it again, or use another checkpoint"
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST}", remedy)
    try:
        manifest = read_json(folder / MANIFEST)
    except StateError as error:
        raise CheckpointError(error.what, remedy) from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has format {manifest.get('format')!r}, not {FORMAT}")
    try:
        files = dict(manifest["files"])
        for name, digest in files.items():
            if file_digest(folder / name) != digest:
                raise CheckpointError(f"{folder / name} does not match its manifest", remedy)
        recipe = Recipe.model_validate(manifest["recipe"])
        tensors = load_file(folder / MODEL)
        schema = ParameterSchema.of_shapes({k: tuple(t.shape) for k, t in tensors.items()})
        vector = ParameterVector.of_tensors(schema, tensors)
        if vector.digest != manifest["vector_digest"]:
            raise CheckpointError(f"{folder}: the vector's digest is not the manifest's", remedy)
        extra = {
            name.removesuffix(".safetensors"): load_file(folder / name)
            for name in files
            if name != MODEL
        }
        return Checkpoint(recipe, vector, dict(manifest["facts"]), extra)
    except (OSError, KeyError, TypeError, SafetensorError, ValidationError, VectorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error!s:.200}", remedy) from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that own their memory: safetensors refuses views into one flat vector."""
    return {name: tensor.clone() for name, tensor in tensors.items()}

"""Checkpoints and releases: a folder with safetensors and a JSON manifest, whole or absent."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.shared.errors import CheckpointError, DtypeError, MachineError, VectorError
from gobelin.shared.files import MANIFEST as MANIFEST
from gobelin.shared.files import file_digest as file_digest
from gobelin.shared.files import folder_atomic, json_bytes, readable, write_json
from gobelin.shared.formats import Format, require_version
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector

FORMAT = "gobelin.checkpoint.v1"
_NEWER = re.compile(r"gobelin\.checkpoint\.v(\d{1,4})")
MODEL = "model.safetensors"
REMEDY = "fetch it again, or use another checkpoint"
DTYPES = {  # by safetensors' names
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}
_OF_VECTOR = ("schema_digest", "vector_digest", "parameters")


@dataclass(frozen=True)
class Checkpoint:
    """A model at rest: its recipe, its parameter vector and what is recorded about its making.

    `facts` is free JSON (federation, round, contributions, ...); `extra` names further tensors
    kept beside the model, such as an outer optimizer's momentum. What is read from a folder lies
    in its files, mapped: it takes the system's page cache and no memory of the process.
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
    with folder_atomic(folder) as tmp:
        fill_checkpoint(tmp, recipe, vector, facts, extra)


def fill_checkpoint(
    folder: Path,
    recipe: Recipe,
    vector: ParameterVector,
    facts: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint's files into a folder that is being filled."""
    tensors = {MODEL: vector.tensors()}
    tensors |= {f"{name}.safetensors": dict(own) for name, own in (extra or {}).items()}
    with ThreadPoolExecutor(2, "digests") as pool:
        digests = {}
        for name, own in tensors.items():
            save_tensors(own, folder / name)
            digests[name] = pool.submit(file_digest, folder / name)  # while the next is written
        files = {name: digest.result() for name, digest in digests.items()}
    manifest = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest,
        "schema_digest": vector.schema.digest,
        "vector_digest": vector.digest,
        "parameters": vector.schema.size,
        "files": files,
        "facts": dict(facts),
    }
    write_json(folder / MANIFEST, {**manifest, "manifest_digest": _digest_of(manifest)})


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint folder; raises CheckpointError on any flipped bit.

    MachineError where its disk fails for now.
    """
    try:
        with readable(folder):
            return _verified(folder)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError, VectorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error!s:.200}", REMEDY) from None


def _verified(folder: Path) -> Checkpoint:
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST}", REMEDY)
    manifest = _read_manifest(folder / MANIFEST)
    files = dict(manifest["files"])
    for name, digest in files.items():
        if Path(name).name != name or file_digest(folder / name) != digest:
            raise CheckpointError(f"{folder / name} does not match its manifest", REMEDY)
    recipe = Recipe.model_validate(manifest["recipe"])
    vector = vector_at(folder / MODEL)
    found = (recipe.digest, vector.schema.digest, vector.digest, vector.schema.size)
    if found != tuple(manifest[k] for k in ("recipe_digest", *_OF_VECTOR)):
        raise CheckpointError(f"{folder}: a digest is not the manifest's", REMEDY)
    return Checkpoint(recipe, vector, dict(manifest["facts"]), _extra(folder, files))


def at_rest(
    folder: Path, vector: ParameterVector, extra: Mapping[str, Mapping[str, Tensor]]
) -> tuple[ParameterVector, dict[str, dict[str, Tensor]]]:
    """What `write_checkpoint` has just written there, as it lies in the files, not read again."""
    values = _mapped(folder / MODEL, vector.schema)
    return vector.at_rest(values), _extra(folder, [f"{name}.safetensors" for name in extra])


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; raises MachineError where the disk takes no more."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # how it tells of what a file system refuses
        what = f"{path.name} cannot be written: {error!s:.120}"
        raise MachineError(what, "free some space") from None


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped; raises OSError or SafetensorError on any other.

    For what is read every round: of each tensor that safetensors 0.8.0 itself gives to torch it
    keeps two numbers for ever. It checks the file, in which tensors lie without gaps.
    """
    with safe_open(file, "numpy") as opened:
        slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
        told = {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}
    end = file.stat().st_size
    whole = torch.from_file(str(file), shared=False, size=end, dtype=torch.uint8)
    tensors = {}
    for name, (kind, shape) in reversed(told.items()):
        if kind not in DTYPES:
            raise SafetensorError(f"{name} is of type {kind}")
        start = end - DTYPES[kind].itemsize * math.prod(shape)
        part = whole[start:end] if start % DTYPES[kind].itemsize == 0 else whole[start:end].clone()
        tensors[name], end = part.view(DTYPES[kind]).reshape(shape), start
    return tensors


def vector_at(file: Path) -> ParameterVector:
    """The parameter vector in a safetensors file, mapped.

    Raises OSError, SafetensorError or VectorError on what is none.
    """
    tensors = load_file(file)
    schema = ParameterSchema.of_shapes({k: tuple(t.shape) for k, t in tensors.items()})
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise DtypeError(f"{file.name} holds tensors that are not float32", "save them as float32")
    return ParameterVector(schema, _mapped(file, schema))


def _mapped(file: Path, schema: ParameterSchema) -> Tensor:
    """The flat vector (P,) in a model's file: safetensors keeps tensors of one dtype by name."""
    offset, shape = file.stat().st_size - 4 * schema.size, (schema.size,)
    values = np.memmap(file, "<f4", "c", offset, shape)  # "c": what is written stays in memory
    return torch.from_numpy(values.astype(np.float32, copy=False))


def _extra(folder: Path, files: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    return {
        name.removesuffix(".safetensors"): load_tensors(folder / name)
        for name in files
        if name != MODEL
    }


def read_extra(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors `name` of a checkpoint, verified, without reading its model.

    Raises CheckpointError when they are not there or not what the manifest says.
    """
    file = f"{name}.safetensors"
    try:
        if _read_manifest(folder / MANIFEST)["files"][file] != file_digest(folder / file):
            raise CheckpointError(f"{folder / file} does not match its manifest", REMEDY)
        return load_tensors(folder / file)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder / file} cannot be read: {error!s:.200}", REMEDY) from None


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose bytes are exactly those that were written."""
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    if (newer := _NEWER.fullmatch(str(manifest.get("format")))) and int(newer[1]) > 1:
        require_version(Format("checkpoint", 1, 1, MANIFEST), int(newer[1]), str(path.parent))
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest.get('format')!r}, not {FORMAT}",
            "fetch it again, or use another checkpoint",
        )
    if json_bytes(manifest) != path.read_bytes():
        raise ValueError("the manifest is not as it was written")
    if manifest.pop("manifest_digest") != _digest_of(manifest):
        raise ValueError("the manifest does not match its own digest")
    return manifest


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(manifest)).hexdigest()

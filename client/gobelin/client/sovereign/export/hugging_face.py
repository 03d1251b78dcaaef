"""A folder as Hugging Face's hub has them: config.json, safetensors, a card, a small loader.

The package's own model.safetensors and head.safetensors stay as they are, so their digests are
those of the signed lineage. `modeling_gobelin.py` beside them needs torch and safetensors alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gobelin.client.sovereign.export.inference import (
    FEATURES,
    LATENTS,
    PROBABILITIES,
    Graph,
    graphs_of,
    largest_difference,
    require_same,
)
from gobelin.client.sovereign.package import CONFIG, HEAD, SovereignModel
from gobelin.shared.checkpoint import MODEL
from gobelin.shared.errors import ExportError
from gobelin.shared.files import write_json
from gobelin.shared.modality.image import ImageRecipe
from gobelin.shared.modality.image_tokenizer import stem_strides
from gobelin.shared.modality.trajectory import TrajectoryRecipe

LOADER = "modeling_gobelin.py"
KINDS = ("image", "series", "text", "vector", "video")  # that the loader knows
MOST = 1e-5  # absolute difference of any output from the model's own


def write_hugging_face(model: SovereignModel, folder: Path) -> dict[str, Any]:
    """Fill the folder; returns what there is to say of it.

    Raises ExportError on a modality the loader does not know, or where it computes something else.
    """
    assert model.folder is not None
    graphs = graphs_of(model)
    write_json(folder / CONFIG, config_of(model))
    for name in (MODEL, HEAD):
        if (model.folder / name).exists():
            shutil.copyfile(model.folder / name, folder / name)
    shutil.copyfile(Path(__file__).with_name(LOADER), folder / LOADER)
    loaded = _load_module(folder / LOADER).load(folder)
    worst = 0.0
    for graph in graphs:
        worst = max(worst, largest_difference(graph, lambda x, g=graph: _ask(loaded, g, x)))  # type: ignore[misc]
    require_same(LOADER, worst, MOST)
    return {"loader": LOADER, "max_abs_diff": worst, "checked_by": f"torch {torch.__version__}"}


def config_of(model: SovereignModel) -> dict[str, Any]:
    """The package's config.json, and beside it the names that others look for."""
    table = model.recipe.modalities[model.recipe.pick(model.modality)]
    seen = table.observation if isinstance(table, TrajectoryRecipe) else table
    if seen.kind not in KINDS:
        raise ExportError(
            f"the loader knows no samples of kind {seen.kind!r}", f"it knows {', '.join(KINDS)}"
        )
    told = model.config().model_dump(mode="json")
    told |= {
        "model_type": "gobelin-sovereign",
        "hidden_size": model.recipe.trunk.dim,
        "num_hidden_layers": model.recipe.trunk.depth,
        "num_attention_heads": model.recipe.trunk.heads,
    }
    if model.class_names:
        told["id2label"] = {str(i): name for i, name in enumerate(model.class_names)}
        told["label2id"] = {name: i for i, name in enumerate(model.class_names)}
    if isinstance(seen, ImageRecipe) and seen.stem == "conv":
        told["strides"] = list(stem_strides(seen.image_size, seen.patch_size))
    return told


def _ask(loaded: Any, graph: Graph, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What the loader's model says where the graph says its outputs."""
    if graph.name == "predictor":
        return (loaded.foresee(*inputs),)
    asked = {FEATURES: "encode", PROBABILITIES: "predict", LATENTS: "latents"}
    return tuple(getattr(loaded, asked[name])(*inputs) for name in graph.outputs)


def _load_module(file: Path) -> ModuleType:
    """The loader as it lies there, under a name of its own; it leaves nothing beside it."""
    spec = importlib.util.spec_from_file_location("gobelin_exported_loader", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module

"""What a release says of the one before it: what heads lose, and the frame that they read through.

Both files are under the release's signature, like all of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gobelin.shared.errors import CheckpointError, StateError
from gobelin.shared.files import read_json, write_json
from gobelin.shared.frame import Frame

FIGURES = "transplant.json"
FRAME = "frame.safetensors"
FORMAT = "gobelin.transplant.v1"
REMEDY = "fetch the release again"


def fill_transplant(folder: Path, facts: Mapping[str, Any], frame: Frame) -> None:
    """Write both into a release's folder that is being filled."""
    write_json(folder / FIGURES, {"format": FORMAT, **facts})
    save_file({"rotation": frame.rotation}, folder / FRAME)


def read_transplant(folder: Path) -> dict[str, Any] | None:
    """The figures of a release that has been verified; None where none were measured.

    Raises CheckpointError on a file that is none.
    """
    if not (folder / FIGURES).exists():
        return None
    try:
        told = read_json(folder / FIGURES)
    except StateError as error:
        raise CheckpointError(error.what, REMEDY) from None
    if told.get("format") != FORMAT:
        found = told.get("format")
        raise CheckpointError(f"{folder / FIGURES} has format {found!r}, not {FORMAT}", REMEDY)
    return told


def read_frame(folder: Path, before: str, modality: str) -> Frame | None:
    """The frame of a verified release to the one whose vector has the digest `before`.

    None where the release has none, or only one to another release or of another modality. Raises
    CheckpointError on a file that is none.
    """
    told = read_transplant(folder)
    if told is None or (told.get("from_vector_digest"), told.get("modality")) != (before, modality):
        return None
    try:
        rotation = load_file(folder / FRAME)["rotation"]
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder / FRAME} is no frame ({error!s:.100})", REMEDY) from None
    if rotation.ndim != 2 or not torch.allclose(
        rotation @ rotation.T, torch.eye(len(rotation)), atol=1e-4
    ):
        raise CheckpointError(f"{folder / FRAME} turns features into others", REMEDY)
    return Frame(rotation)

"""Writing an export: the model in another form, with its card, its licence and its lineage.

export.json   which package it is of, digests of its files, how far it is from the model
lineage.json  the package's, signed by its region
README.md     its card, with what Hugging Face's hub reads above it
LICENSE       by its SPDX name; and every further file of the package
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from gobelin.client.sovereign.export.hugging_face import write_hugging_face
from gobelin.client.sovereign.export.onnx_graph import write_onnx
from gobelin.client.sovereign.lineage import FILE as LINEAGE
from gobelin.client.sovereign.package import CONFIG, SovereignModel
from gobelin.shared.errors import StateError
from gobelin.shared.files import file_digest, folder_atomic, json_bytes, write_atomic, write_json
from gobelin.shared.signing import SigningKey

FORMAT = "gobelin.export.v1"
FILE = "export.json"
PURPOSE = "sovereign export"
CARD, LICENCE = "README.md", "LICENSE"
APACHE = "Apache-2.0"
TASKS = {"classification": "classification", "world model": "robotics"}

Exporter = Callable[[SovereignModel, Path], dict[str, Any]]
EXPORTERS: dict[str, Exporter] = {"hf": write_hugging_face, "onnx": write_onnx}


def export_package(
    model: SovereignModel, out: Path, to: str, key: SigningKey | None = None
) -> dict[str, Any]:
    """Write a package that was read from a folder in the form `to`, whole or not at all.

    With a `key` the export is signed. Returns what export.json says. Raises StateError where
    something else lies at `out`, and as the exporter does.
    """
    assert model.folder is not None
    _require_free(out)
    with folder_atomic(out) as tmp:
        for name, content in model.files.items():
            _put(tmp / name, content)
        told = EXPORTERS[to](model, tmp)
        shutil.copyfile(model.folder / LINEAGE, tmp / LINEAGE)
        if not (tmp / CONFIG).exists():
            shutil.copyfile(model.folder / CONFIG, tmp / CONFIG)
        _write_card(model, tmp / CARD, to)
        if not (tmp / LICENCE).exists():
            write_atomic(tmp / LICENCE, licence_text(model.lineage.licence).encode())
        statement = {
            "format": FORMAT,
            "to": to,
            "package": model.digest,
            "region": model.lineage.region,
            "licence": model.lineage.licence,
            "files": {name: file_digest(tmp / name) for name in _names(tmp)},
            **told,
        }
        write_json(tmp / FILE, {"statement": statement, **_signed(statement, key)})
    return statement


def licence_text(name: str) -> str:
    """The text of Gobelin's own licence where it is that one, else its SPDX name."""
    if name == APACHE:
        for file in metadata.files("gobelin") or []:
            if file.name == LICENCE and (path := Path(str(file.locate()))).is_file():
                return path.read_text(encoding="utf-8")
    return f"SPDX-License-Identifier: {name}\n"


def _signed(statement: dict[str, Any], key: SigningKey | None) -> dict[str, str]:
    if key is None:
        return {}
    return {"key": key.public, "signature": key.sign(PURPOSE, json_bytes(statement))}


def _write_card(model: SovereignModel, path: Path, to: str) -> None:
    """The package's card, or a short one, behind what the hub reads."""
    card = path.read_text(encoding="utf-8") if path.exists() else _short_card(model)
    if card.startswith("---\n"):
        return
    tags = ["gobelin", "jepa", TASKS.get(model.task, "feature-extraction")]
    front = ["---", f"license: {model.lineage.licence.lower()}", "tags:"]
    front += [f"- {tag}" for tag in tags]
    front += [f"library_name: {'onnx' if to == 'onnx' else 'gobelin'}", "---", "", ""]
    write_atomic(path, ("\n".join(front) + card).encode())


def _short_card(model: SovereignModel) -> str:
    of, from_ = model.lineage, model.lineage.release
    classes = f"\nClasses: {', '.join(model.class_names)}.\n" if model.class_names else ""
    return (
        f"# A sovereign model of {of.region}\n\n"
        f"A {model.task} model, built by {of.method} on round {from_.round} of "
        f"{from_.federation or 'a federation'}'s consensus. {LINEAGE} says of what.\n{classes}"
    )


def _require_free(out: Path) -> None:
    """Raise StateError where a folder holds something that is no export, for it would be lost."""
    if out.is_dir() and (out / FILE).is_file():
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StateError(f"{out} holds something that is no export", "choose a new --out")


def _put(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)

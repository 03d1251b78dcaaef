"""A sovereign model package: one folder that is a region's own model, whole and signed.

    model.safetensors   the whole parameter vector after the build, adapters merged
    head.safetensors    a head's weights, where there is one
    config.json         recipe, modality, head, classes, what a sample is, build settings
    lineage.json        what it was made of and every other file's digest, signed (see `lineage`)
    anything else       adapter/, report, model card: listed in the lineage as all is

It needs no network and no release to work.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gobelin.client.sovereign.head import Head, make_head
from gobelin.client.sovereign.lineage import FILE as LINEAGE
from gobelin.client.sovereign.lineage import Lineage, read_lineage, sign_lineage
from gobelin.shared.checkpoint import MODEL, file_digest, save_tensors, vector_at
from gobelin.shared.data import Batch
from gobelin.shared.errors import (
    CheckpointError,
    ConfigError,
    StateError,
    VectorError,
)
from gobelin.shared.evaluation.embed import at_rest, require_device
from gobelin.shared.files import folder_atomic, read_json, write_atomic, write_json
from gobelin.shared.model import Encoder, encoder_of
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.recipe import Recipe
from gobelin.shared.settings import Settings, explain
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector

CONFIG = "config.json"
HEAD = "head.safetensors"
REMEDY = "get it again from whoever built it, or build it again"


class HeadConfig(Settings):
    """What a head is, without its weights."""

    kind: str
    form: dict[str, int]
    temperature: float = 1.0  # divides logits before they become probabilities


class PackageConfig(Settings):
    """config.json: what is needed to use the model, and how it was built."""

    format: Literal["gobelin.sovereign.v1"] = "gobelin.sovereign.v1"
    recipe: Recipe
    modality: str | None = None
    task: str
    head: HeadConfig | None = None
    class_names: tuple[str, ...] = ()
    sample: dict[str, Any]  # what a raw sample is, by the recipe's modality
    build: dict[str, Any] = Field(default_factory=dict)
    vector_digest: str
    parameters: int


@dataclass(frozen=True, eq=False)
class SovereignModel:
    """A region's model: to use (`encode`, `predict`), and to build upon.

    `files` are further files of the package by their path in it: bytes, or where they lie.
    """

    recipe: Recipe
    vector: ParameterVector
    lineage: Lineage
    modality: str | None = None  # of the recipe's; None where it has only one
    head: Head | None = None
    class_names: tuple[str, ...] = ()
    temperature: float = 1.0
    build: Mapping[str, Any] = field(default_factory=dict)  # its settings, as plain JSON
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    folder: Path | None = None  # where it was read from
    signed_by: str = ""  # public key; empty until it is written
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.head is not None and len(self.class_names) != self.head.classes:
            named, classes = len(self.class_names), self.head.classes
            raise ConfigError(f"{named} names for a head of {classes} classes", "name each class")

    @property
    def task(self) -> str:
        """classification, world model or representation."""
        if self.head is not None:
            return "classification"
        return "world model" if self._is_world_model else "representation"

    @property
    def digest(self) -> str:
        """The package's own SHA-256: that of the signed lineage, which has all other files'."""
        return self.lineage.digest

    @cached_property
    def encoder(self) -> Encoder:
        """Its modality's way through the model, on the device, in evaluation mode."""
        return encoder_of(self.recipe, self.vector, self.modality).to(self.device).eval()

    @torch.no_grad()
    def tokens(self, samples: Batch) -> Tensor:
        """Encoded tokens (B, N, D) of raw samples (B, ...); raises DataError on others."""
        with at_rest(self.encoder):
            return self.encoder.tokens(self._prepared(samples)).float()

    @torch.no_grad()
    def encode(self, samples: Batch) -> Tensor:
        """Features (B, D) of raw samples (B, ...) as a source reads them, or one's without B.

        Of trajectories, those of all observations, (B (T + 1), D). Raises DataError on others.
        """
        with at_rest(self.encoder):
            prepared = self._prepared(samples)
            return self.encoder.pool(self.encoder.tokens(prepared), prepared).float()

    @torch.no_grad()
    def predict(self, samples: Batch) -> Tensor:
        """Probabilities (B, K) of `class_names` for raw samples (B, ...).

        Raises ConfigError where the model has no head, DataError on other samples.
        """
        if self.head is None:
            what = f"this model is a {self.task} and has no head"
            raise ConfigError(what, "use `encode`, or build it with labelled data")
        head = self.head.to(self.device)
        return (head.logits(self.tokens(samples)) / self.temperature).softmax(dim=1)

    def world_model(self) -> WorldModel:
        """What plans and is surprised; raises ConfigError where it is of no trajectories."""
        return WorldModel(self.encoder)

    @property
    def _is_world_model(self) -> bool:
        return self.recipe.modalities[self.recipe.pick(self.modality)].kind == "trajectory"

    def _prepared(self, samples: Batch) -> Tensor:
        self.encoder.modality.check(samples)
        return self.encoder.prepare(samples.to(self.device))

    def config(self) -> PackageConfig:
        """The content of config.json."""
        head, of_head = self.head, None
        if head is not None:
            of_head = HeadConfig(kind=head.kind, form=head.form(), temperature=self.temperature)
        form = self.recipe.modality(self.modality).form
        return PackageConfig(
            recipe=self.recipe,
            modality=self.modality,
            task=self.task,
            head=of_head,
            class_names=self.class_names,
            sample={"kind": type(form).__name__, **vars(form)},
            build=dict(self.build),
            vector_digest=self.vector.digest,
            parameters=self.vector.schema.size,
        )


def load(folder: Path | str, *, key: str | None = None, device: str = "cpu") -> SovereignModel:
    """A sovereign model, verified, to `encode` and `predict` with; see `read_package`."""
    require_device(device)
    return replace(read_package(Path(folder), key=key), device=device)


def write_package(folder: Path, model: SovereignModel, key: SigningKey) -> SovereignModel:
    """Write and sign a package, whole or not at all; an older one of the name is replaced.

    Returns the model as it lies there. Raises StateError where something else lies there.
    """
    require_free(folder)
    with folder_atomic(folder) as tmp:
        save_tensors(model.vector.tensors(), tmp / MODEL)
        if model.head is not None:
            own = model.head.state_dict().items()
            save_tensors({n: w.cpu().contiguous() for n, w in own}, tmp / HEAD)
        write_json(tmp / CONFIG, model.config().model_dump(mode="json"))
        for name, content in model.files.items():
            _put(tmp, name, content)
        files = {name: file_digest(tmp / name) for name in _names(tmp)}
        lineage = model.lineage.model_copy(update={"files": files})
        write_json(tmp / LINEAGE, sign_lineage(lineage, key))
    return read_package(folder, key=key.public)


def read_package(folder: Path, *, key: str | None = None) -> SovereignModel:
    """Read a package, every byte of it checked against its signed lineage.

    `key`: the public key (64 hex digits) of the region that must have signed it; without one, it is
    whole, whoever made it. Raises SignatureError, and CheckpointError on a file that is missing,
    changed or too many.
    """
    lineage, public = read_lineage(folder / LINEAGE, key)
    _check_files(folder, lineage)
    try:
        config = PackageConfig.model_validate(read_json(folder / CONFIG))
        vector = vector_at(folder / MODEL)
        if (vector.digest, vector.schema.size) != (config.vector_digest, config.parameters):
            raise CheckpointError(f"{folder} holds another model than its {CONFIG} says", REMEDY)
        head, said = None, config.head
        if said is not None:
            head = make_head(said.kind, said.form, load_file(folder / HEAD))
        own = {MODEL, HEAD, CONFIG}
        return SovereignModel(
            recipe=config.recipe,
            vector=vector,
            lineage=lineage,
            modality=config.modality,
            head=head,
            class_names=config.class_names,
            temperature=said.temperature if said else 1.0,
            build=config.build,
            files={name: folder / name for name in lineage.files if name not in own},
            folder=folder,
            signed_by=public,
        )
    except ValidationError as error:
        what = f"{folder / CONFIG}: {explain(PackageConfig, error)}"
        raise CheckpointError(what, REMEDY) from None
    except (OSError, ValueError, SafetensorError, StateError, VectorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error!s:.200}", REMEDY) from None


def require_free(folder: Path) -> None:
    """Raise StateError where a folder holds something that is no package, for it would be lost."""
    if folder.is_dir() and (folder / LINEAGE).is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StateError(
            f"{folder} holds something that is no sovereign model", "choose a new --out"
        )


def _put(folder: Path, name: str, content: bytes | Path) -> None:
    """A further file of the package; raises ConfigError on a name that is none inside of it."""
    parts = Path(name).parts
    if (
        not parts
        or Path(name).is_absolute()
        or ".." in parts
        or name in (LINEAGE, MODEL, CONFIG, HEAD)
    ):
        raise ConfigError(f"a package has no room for a file {name!r}", "give it another name")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_atomic(folder / name, content)
    else:
        shutil.copyfile(content, folder / name)


def _names(folder: Path) -> list[str]:
    """Every file under a folder, by its path in it; folders and links, too, so that none hides."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _check_files(folder: Path, lineage: Lineage) -> None:
    found = set(_names(folder)) - {LINEAGE}
    odd = sorted(found ^ set(lineage.files))
    if odd:
        missing = odd[0] not in found
        what = "is missing" if missing else "is not in its lineage"
        raise CheckpointError(f"{folder / odd[0]} {what}", REMEDY)
    for name, digest in lineage.files.items():
        if (folder / name).is_symlink() or file_digest(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is not what was signed", REMEDY)

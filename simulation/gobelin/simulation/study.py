"""A study: how many members, whose data, which federation; and the folder it lives in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gobelin.client.home import ComputeSettings, DataSettings, NodeHome, NodeSettings, found_node
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.checkpoint import MANIFEST
from gobelin.shared.data import Source, Subset
from gobelin.shared.data.export import write_idx
from gobelin.shared.data.fashion_mnist import TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import Indices, by_class, dirichlet, even
from gobelin.shared.errors import ConfigError, DataError, StateError
from gobelin.shared.files import folder_atomic, read_json
from gobelin.shared.recipe import load_recipe
from gobelin.shared.settings import Settings, check_settings, read_settings, write_settings

NAME = "simulation"
ADDRESS = "127.0.0.1:9092"  # in the settings of a federation that listens nowhere
DEADLINE_S = 30 * 86400.0  # a simulated round takes as long as it takes, and no reply is late
TABLES = {field.name for field in fields(Charter)} - {"name", "recipe", "address", "seed"}
CACHE = Path(".cache")  # of Fashion-MNIST, as everywhere
LABEL_BYTES = 256  # labels an IDX file of bytes can hold


class Study(Settings):
    """`study.toml`."""

    members: Annotated[int, Field(ge=1, le=10_000)] = 10
    skew: Annotated[str, Field(pattern=r"^(even|classes|dirichlet:\d+(\.\d+)?)$")] = "even"
    data: Path | None = None  # images to share out; unset: Fashion-MNIST
    recipe: str = "tiny"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(gt=0)] = 1  # CPU threads of a node while it trains
    device: str = "cpu"
    federation: dict[str, dict[str, Any]] = Field(default_factory=dict)  # tables of federation.toml

    @property
    def names(self) -> list[str]:
        """The members' names, which are their nodes' too, in order."""
        digits = len(str(self.members - 1))
        return [f"member-{number:0{digits}d}" for number in range(self.members)]

    @property
    def actors(self) -> int:
        """How many nodes train at once on this machine."""
        return max(1, min(self.members, cores() // self.threads))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Study:
        """What is given, and the rounds' defaults for a simulation; raises ConfigError."""
        study = check_settings(cls, given, where="the options")
        unknown = sorted(study.federation.keys() - TABLES)
        if unknown:
            raise ConfigError(
                f"a simulation has no table {unknown[0]!r} to set",
                f"it has {', '.join(sorted(TABLES))}",
            )
        rounds = {
            "rounds": 5,
            "local_steps": 20,
            "min_members": 1,  # the quorum decides, and one member is a study too
            "deadline_s": DEADLINE_S,
            **study.federation.get("rounds", {}),
        }
        return study.model_copy(update={"federation": {**study.federation, "rounds": rounds}})


class StudyHome:
    """Paths under one `--home`: an aggregator's home, and a home and data for each node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study_file = folder / "study.toml"
        self.aggregator = AggregatorHome(folder / "aggregator")

    def study(self) -> Study:
        """The study; raises ConfigError unless one was founded here."""
        return read_settings(Study, self.study_file)

    def node(self, name: str) -> NodeHome:
        """A node's home."""
        return NodeHome(self.folder / "nodes" / name)

    def data(self, name: str) -> Path:
        """A node's private data."""
        return self.folder / "data" / name

    def nodes(self) -> list[NodeHome]:
        """All nodes' homes, in the order of their names."""
        return [self.node(name) for name in self.study().names]

    def last_release(self) -> Path:
        """Where the release of the last round lies once the study has been run."""
        rounds = self.aggregator.settings().rounds.rounds
        return self.aggregator.releases / f"release-{rounds:05d}"

    def vector_bytes(self) -> int:
        """Bytes of the model's parameter vector."""
        manifest = read_json(self.aggregator.round_folder(0) / MANIFEST)
        return 4 * int(manifest["parameters"])


def open_study(home: StudyHome, given: Mapping[str, Any]) -> Study:
    """The study in a home, founded now if there is none.

    Raises StateError when the home holds something else, or a study of other settings.
    """
    if not home.study_file.exists():
        if home.folder.exists() and any(home.folder.iterdir()):
            raise StateError(f"{home.folder} is not empty", "choose an empty or new --home")
        return found_study(home, Study.of(given))
    study = home.study()
    other = next(differing(study.model_dump(mode="json"), given), None)
    if other:
        raise StateError(
            f"{home.folder} holds a study of another {other}",
            "leave the option out to continue it, or choose another --home",
        )
    return study


def found_study(home: StudyHome, study: Study) -> Study:
    """Share out the data and found the federation and its nodes, whole or not at all."""
    recipe = load_recipe(study.recipe)
    path = study.data or fetch_fashion_mnist(CACHE) / TRAIN
    source: Source = recipe.modality().open(path)
    parts = share_out(study, source, recipe.inner.batch_size)
    final = StudyHome(home.folder.absolute())
    with folder_atomic(home.folder) as tmp:
        place = StudyHome(tmp)
        charter = Charter(NAME, study.recipe, ADDRESS, study.seed, **study.federation)
        found(place.aggregator.folder, charter)
        entries = []
        for name, part in zip(study.names, parts, strict=True):
            give_out(Subset(source, part), place.data(name))
            settings = NodeSettings(
                member=name,
                node=name,
                aggregator=ADDRESS,
                data=DataSettings(path=final.data(name)),
                compute=ComputeSettings(device=study.device, threads=study.threads),
            )
            ca = place.aggregator.tls / "ca.pem"
            key = found_node(place.node(name).folder, settings, ca).public_key_file
            entries.append(NodeEntry.of(name, name, key.read_bytes(), str(key)))
        place.aggregator.write_roster(Roster(tuple(entries)))
        write_settings(place.study_file, study)
    return study


def share_out(study: Study, source: Source, batch: int) -> list[Indices]:
    """The images of each member, by the study's skew; raises DataError when they do not suffice."""
    images, members = len(source), study.members
    if images < 2 * members:
        raise DataError(
            f"{images} images do not suffice for {members} members",
            "use fewer --members, or more images",
        )
    if study.skew == "even":
        return even(images, members, study.seed)
    if source.labels is None:
        raise DataError(
            f"{study.data} has no labels to share out by", "use --skew even, or labelled images"
        )
    if study.skew == "classes":
        return by_class(source.labels, members, study.seed)
    alpha = float(study.skew.removeprefix("dirichlet:"))
    least = min(batch, images // members)
    return dirichlet(source.labels, members, alpha, study.seed, minimum=least)


def give_out(part: Subset, folder: Path) -> None:
    """Write a member's images, with their labels where bytes can hold them."""
    labels = part.labels
    small = labels is not None and int(labels.max()) < LABEL_BYTES
    write_idx(folder, part.read(np.arange(len(part))), labels if small else None)


def differing(stored: Mapping[str, Any], given: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Names of what is given and not stored so."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from differing(stored.get(key, {}), value, f"{at}{key}.")
        elif stored.get(key) != value:
            yield f"{at}{key}"


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

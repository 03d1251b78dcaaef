"""A study is founded whole, from the seed alone, and continued only as it was founded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gobelin.server.roster import NodeEntry
from gobelin.server.round_events import Seat
from gobelin.server.terms import terms_of
from gobelin.shared.data import ImageFormat, open_source
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, DataError, StateError
from gobelin.simulation.study import Study, StudyHome, open_study

IMAGES, CLASSES = 60, 5


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Labelled images, each known by its first pixel."""
    pixels = torch.arange(IMAGES, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    write_idx(tmp_path / "images", pixels, torch.arange(IMAGES) % CLASSES)
    return tmp_path / "images"


def owners(home: StudyHome) -> list[list[int]]:
    """Which images each member has."""
    owned = []
    for name in home.study().names:
        source = open_source(home.data(name), ImageFormat(28, 1))
        pixels = source.read(np.arange(len(source)))[:, 0, 0, 0]
        assert source.labels is not None
        assert torch.equal(source.labels, pixels % CLASSES)
        owned.append(pixels.tolist())
    return owned


@pytest.mark.parametrize("skew", ["even", "classes", "dirichlet:0.1"])
def test_every_image_has_one_owner_and_the_seed_says_which(
    skew: str, images: Path, tmp_path: Path
) -> None:
    given = {"members": 7, "skew": skew, "data": str(images), "seed": 3}
    found = []
    for folder in ("one", "two"):
        home = StudyHome(tmp_path / folder)
        open_study(home, given)
        found.append(owners(home))
    assert found[0] == found[1]
    assert sorted(image for owned in found[0] for image in owned) == list(range(IMAGES))
    other = StudyHome(tmp_path / "three")
    open_study(other, {**given, "seed": 4})
    assert owners(other) != found[0]


def test_every_node_is_on_the_roster_by_its_own_key(images: Path, tmp_path: Path) -> None:
    home = StudyHome(tmp_path / "study")
    study = open_study(home, {"members": 12, "data": str(images), "threads": 1})
    assert study.names == sorted(study.names)
    roster = home.aggregator.roster()
    assert roster.members == study.names
    assert len(roster.by_id()) == 12
    for node, entry in zip(home.nodes(), roster.nodes, strict=True):
        settings = node.settings()
        assert (settings.member, settings.node) == (entry.member, entry.name)
        pem = node.public_key_file.read_bytes()
        assert NodeEntry.of(entry.member, entry.name, pem, "this") == entry
        assert settings.compute.threads == 1


@pytest.mark.parametrize(("members", "needed"), [(1, 1), (2, 1), (11, 6), (12, 6)])
def test_half_of_the_members_are_enough_for_a_round(
    members: int, needed: int, images: Path, tmp_path: Path
) -> None:
    home = StudyHome(tmp_path / "study")
    open_study(home, {"members": members, "data": str(images)})
    assert terms_of(home.aggregator.settings()).needed(seats_of(home)) == needed


def seats_of(home: StudyHome) -> dict[str, Seat]:
    return {node.id: Seat(node.member, node.name) for node in home.aggregator.roster().nodes}


def test_a_study_is_continued_as_it_is_or_not_at_all(images: Path, tmp_path: Path) -> None:
    home = StudyHome(tmp_path / "study")
    more = {"outer": {"kind": "nesterov"}, "rounds": {"rounds": 4}}
    study = open_study(home, {"members": 3, "data": str(images), "federation": more})
    assert open_study(home, {}) == study
    assert open_study(home, {"members": 3, "federation": {"rounds": {"rounds": 4}}}) == study
    for other, name in (
        ({"members": 4}, "members"),
        ({"federation": {"rounds": {"rounds": 5}}}, "federation.rounds.rounds"),
        ({"federation": {"policy": {"cap": 0.5}}}, "federation.policy.cap"),
    ):
        with pytest.raises(StateError, match=f"another {name}"):
            open_study(home, other)
    assert home.aggregator.settings().outer.kind == "nesterov"


def test_nothing_is_written_where_a_study_cannot_be(images: Path, tmp_path: Path) -> None:
    home, data = StudyHome(tmp_path / "study"), str(images)
    for given, error, text in (
        ({"data": data, "federation": {"outr": {"kind": "sgd"}}}, ConfigError, "no table 'outr'"),
        ({"data": data, "federation": {"outer": {"knd": "sgd"}}}, ConfigError, "mean 'kind'"),
        ({"data": data, "federation": {"network": {"port": 1}}}, ConfigError, "'network'"),
        ({"data": data, "skew": "dirichlet"}, ConfigError, "skew"),
        ({"data": data, "recipe": "tyni"}, ConfigError, "tyni"),
        ({"data": data, "members": IMAGES}, DataError, "do not suffice"),
        ({"data": str(tmp_path / "none")}, DataError, "does not exist"),
    ):
        with pytest.raises(error, match=text):
            open_study(home, given)
    (images / "labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no labels"):
        open_study(home, {"data": data, "skew": "classes"})
    assert not home.folder.exists()
    open_study(home, {"data": data, "members": 2})


def test_a_folder_that_holds_something_else_stays_as_it_is(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "mine")
    before = sorted((tmp_path / "mine").iterdir())
    with pytest.raises(StateError, match="is not empty"):
        open_study(StudyHome(tmp_path / "mine"), {"data": str(images)})
    assert sorted((tmp_path / "mine").iterdir()) == before


def test_labels_that_no_byte_holds_stay_behind(tmp_path: Path) -> None:
    for label in range(300):  # an image folder of 300 classes
        folder = tmp_path / "images" / f"{label:03d}"
        folder.mkdir(parents=True)
        write_png(folder / "image.png")
    home = StudyHome(tmp_path / "study")
    open_study(home, {"members": 2, "skew": "classes", "data": str(tmp_path / "images")})
    source = open_source(home.data(home.study().names[0]), ImageFormat(28, 1))
    assert len(source) == 150
    assert source.labels is None


def write_png(file: Path) -> None:
    from PIL import Image

    Image.new("L", (28, 28)).save(file)


@pytest.mark.parametrize(("members", "threads"), [(1, 1), (100, 1), (100, 1000)])
def test_at_least_one_node_trains_at_once_and_never_more_than_there_are(
    members: int, threads: int
) -> None:
    actors = Study(members=members, threads=threads).actors
    assert 1 <= actors <= members

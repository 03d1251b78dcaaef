"""A federation that has run to its end, and copies of its homes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gobelin.client.home import NodeHome
from gobelin.server.home import AggregatorHome
from tests.server.ledger.witness import (
    NESTEROV,
    ROUNDS,
    Witness,
    listening,
)
from tests.server.world import Federation


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation that has run to its end; tests work on copies."""
    folder = tmp_path_factory.mktemp("made")
    fed = listening(folder, rounds=ROUNDS, release_every=2, archive=True, outer=NESTEROV)
    fed.run()
    return fed


@pytest.fixture
def home(made: Federation, tmp_path: Path) -> AggregatorHome:
    """A copy of the aggregator's home."""
    shutil.copytree(made.home.folder, tmp_path / "home")
    return AggregatorHome(tmp_path / "home")


@pytest.fixture
def node(made: Federation, tmp_path: Path) -> Witness:
    """North, with a copy of its home."""
    north = next(n for n in made.world.all.values() if n.name == "north")
    assert isinstance(north, Witness)
    copy = Witness("north", tmp_path)
    copy.entry, copy.id, copy.key = north.entry, north.id, north.key
    shutil.copytree(north.home.folder, tmp_path / "north")
    copy.home = NodeHome(tmp_path / "north")
    return copy

"""Two nodes that many tests of rounds have."""

from __future__ import annotations

import pytest

from tests.server.world import Node


@pytest.fixture
def north() -> Node:
    return Node("north")


@pytest.fixture
def south() -> Node:
    return Node("south")

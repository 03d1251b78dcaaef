"""A roster knows each node by its key and takes no name and no key twice."""

from __future__ import annotations

import pytest

from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.errors import ConfigError
from gobelin.shared.keys import fingerprint
from gobelin.shared.signing import BEGIN
from tests.keys import entry, node_pub

NORTH = entry("north", "north-1", 1)
SOUTH = entry("south", "south-1", 2)


def test_admitting_leaves_the_old_roster_and_returns_a_longer_one() -> None:
    empty = Roster(())
    both = empty.admit(SOUTH).admit(NORTH)
    assert empty.nodes == ()
    assert both.nodes == (SOUTH, NORTH)
    assert both.members == ["north", "south"]


def test_a_node_is_known_by_the_fingerprint_of_its_key() -> None:
    roster = Roster((NORTH, SOUTH))
    assert roster.by_id() == {
        fingerprint(node_pub(1)): NORTH,
        fingerprint(node_pub(2)): SOUTH,
    }


def test_a_member_with_two_nodes_is_one_member() -> None:
    roster = Roster((NORTH,)).admit(entry("north", "north-2", 3))
    assert roster.members == ["north"]
    assert len(roster.by_id()) == 2


def test_admitting_twice_changes_nothing() -> None:
    roster = Roster((NORTH, SOUTH))
    assert roster.admit(SOUTH) == roster


def test_a_name_with_another_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="named 'north-1' exists"):
        Roster((NORTH, SOUTH)).admit(entry("north", "north-1", 3))


def test_a_name_of_another_member_is_refused() -> None:
    with pytest.raises(ConfigError, match="north-1"):
        Roster((NORTH,)).admit(entry("south", "north-1", 3))


def test_a_key_under_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="already node 'south-1'"):
        Roster((NORTH, SOUTH)).admit(entry("north", "north-2", 2))


def test_the_same_key_in_another_text_is_the_same_key() -> None:
    pem = node_pub(1).replace(b"\n", b"\r\n")
    other = NodeEntry.of("north", "north-2", pem, "here")
    with pytest.raises(ConfigError, match="already node 'north-1'"):
        Roster((NORTH,)).admit(other)


def test_what_is_no_key_is_refused_by_the_nodes_name() -> None:
    with pytest.raises(ConfigError, match="node west"):
        NodeEntry.of("west", "west", b"no key", "the key of node west")


def test_a_signing_key_is_one_nodes() -> None:
    pem = node_pub(3).split(BEGIN)[1] + BEGIN + node_pub(1).split(BEGIN)[2]
    with pytest.raises(ConfigError, match="already node 'north-1'"):
        Roster((NORTH,)).admit(NodeEntry.of("north", "north-2", BEGIN + pem, "here"))

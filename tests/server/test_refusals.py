"""What a round refuses: bad replies, duplicates, strangers, replies in another's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gobelin.protocols.messages import RoundPlan
from gobelin.server.courier import Reply
from gobelin.shared.errors import RoundError
from gobelin.shared.vector import ParameterVector
from tests.server.world import (
    Federation,
    Node,
    World,
    federation,
    mean_by_hand,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"delta_digest": "0" * 64}, "delta_digest"),
        ({"round": 9}, "round"),
        ({"local_steps": 4}, "local_steps"),
    ],
)
def test_a_refused_reply_is_recorded_and_does_not_count(
    changes: dict[str, Any], reason: str, tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, **changes))]
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    fed.run()
    assert fed.counted(1) == ["north"]
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"], refused["round"]) == ("south", reason, 1)
    expected = mean_by_hand(fed, 1, {north: 1})
    np.testing.assert_allclose(fed.sealed(1).vector.values.numpy(), expected, rtol=0, atol=1e-7)


def test_a_refused_member_does_not_count_towards_the_minimum(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, delta_digest="0" * 64))]
    fed = federation(tmp_path, north, south, attempts=1)
    with pytest.raises(RoundError, match="1 of 2 members contributed"):
        fed.run()


def test_a_nodes_own_error_is_recorded(tmp_path: Path, north: Node, south: Node) -> None:
    south.answer = lambda plan, base: [(0.5, Reply(south.id, error="gobelin:data"))]
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    fed.run()
    (refused,) = fed.events("refused")
    assert (refused["reason"], refused["found"]) == ("node_error", "gobelin:data")
    assert fed.counted(1) == ["north"]


def test_a_duplicate_contribution_counts_once(tmp_path: Path, north: Node, south: Node) -> None:
    undisturbed = federation(tmp_path / "a", north, south)
    undisturbed.run()

    def thrice(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        return [(0.1 * i, south.reply(plan, base)) for i in range(3)]

    south.answer = thrice
    north.answer = lambda plan, base: [(5.0, north.reply(plan, base))]
    fed = federation(tmp_path / "b", north, south)
    fed.run()
    assert fed.digest() == undisturbed.digest()
    refused = fed.events("refused")
    assert [event["reason"] for event in refused] == ["duplicate"] * 4
    assert fed.counted(1) == ["north", "south"]


def test_a_refused_duplicate_does_not_take_back_what_was_counted(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [
        (0.1, south.reply(plan, base)),
        (0.2, south.reply(plan, base, delta_digest="0" * 64)),
        (0.3, Reply(south.id, error="gobelin:data")),
    ]
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    assert fed.counted(1) == ["north", "south"]


def test_a_node_that_is_not_on_the_roster_is_neither_asked_nor_counted(
    tmp_path: Path, north: Node, south: Node
) -> None:
    stranger = Node("stranger")

    def with_company(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        return [(0.1, stranger.reply(plan, base)), (5.0, south.reply(plan, base))]

    south.answer = with_company
    fed = Federation(tmp_path / "home", World(north, south, stranger), [north, south], rounds=1)
    fed.run()
    assert fed.world.offers("stranger") == []
    assert fed.counted(1) == ["north", "south"]
    (refused,) = fed.events("refused")
    assert refused["reason"] == "not_on_roster"
    assert "stranger" not in {name for _, name, _ in fed.world.sent}


def test_a_reply_in_anothers_name_is_refused(tmp_path: Path, north: Node, south: Node) -> None:
    """The courier says who sent a reply, the envelope who made it: they must agree."""
    south.answer = lambda plan, base: [
        (0.5, dataclasses.replace(north.reply(plan, base), node=south.id))
    ]
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    fed.run()
    assert fed.counted(1) == ["north"]
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"]) == ("south", "envelope.address")


def test_no_reply_of_a_member_can_stop_the_aggregator(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, metrics={"\ud800": 1.0}))]
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    fed.run()
    assert "north" in fed.counted(1)


# ---------------------------------------------------------------- restarts

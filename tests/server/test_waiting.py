"""The round engine: who is waited for, how long, and who is told that it is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.server.courier import Reply
from gobelin.server.rounds import FAREWELL_S
from gobelin.shared.errors import RoundError
from gobelin.shared.vector import ParameterVector
from tests.server.world import (
    DEADLINE,
    PATIENCE,
    Federation,
    Node,
    World,
    federation,
    mean_by_hand,
)


def test_the_engine_waits_for_members_and_says_for_whom(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south)
    south.online = False
    fed.world.happenings.append((50.0, lambda: setattr(south, "online", True)))
    fed.run()
    reasons = [event["reason"] for event in fed.events("waiting")]
    assert any("1 of 2 members are online; waiting for south" in reason for reason in reasons)
    assert len(reasons) < 5  # once, not at every look
    assert min(at for at, _, _ in fed.world.sent) >= 50.0
    assert fed.home.sealed_rounds() == [0, 1, 2]


def test_waiting_for_members_is_bounded(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south)
    south.online = False
    with pytest.raises(RoundError, match=r"1 of 2 members came online.*south"):
        fed.run()
    assert PATIENCE <= fed.world.now < PATIENCE + 10
    assert fed.world.sent == []
    assert fed.home.sealed_rounds() == [0]


def test_an_empty_roster_is_said_to_be_one(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    with pytest.raises(RoundError, match="members to be admitted"):
        fed.run()


def test_a_node_admitted_while_waiting_takes_part(tmp_path: Path, north: Node, south: Node) -> None:
    fed = Federation(tmp_path / "home", World(north, south), [north])
    fed.world.happenings.append((30.0, lambda: fed.admit(south)))
    fed.run()
    assert fed.counted(1) == ["north", "south"]


def test_a_node_admitted_during_a_round_takes_part_from_the_next(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    north.answer = lambda plan, base: [(20.0, north.reply(plan, base))]
    fed = Federation(tmp_path / "home", World(north, south, west), [north, south])
    fed.world.happenings.append((5.0, lambda: fed.admit(west)))
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert fed.counted(2) == ["north", "south", "west"]
    assert fed.world.offers("west") == [2]


def test_a_round_waits_for_all_who_are_online(tmp_path: Path, north: Node, south: Node) -> None:
    south.answer = lambda plan, base: [(DEADLINE - 5, south.reply(plan, base))]
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    fed.run()
    assert fed.counted(1) == ["north", "south"]


def test_a_deadline_with_enough_members_seals_without_the_late(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west", answer=lambda plan, base: [])
    fed = federation(tmp_path, north, south, west, rounds=1)
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert DEADLINE <= fed.sealed(1).facts["seconds"] < DEADLINE + 5
    expected = mean_by_hand(fed, 1, {north: 1, south: 1})
    np.testing.assert_allclose(fed.sealed(1).vector.values.numpy(), expected, rtol=0, atol=1e-7)


def test_a_deadline_with_too_few_members_voids_the_round_and_leaves_the_base(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: []
    fed = federation(tmp_path, north, south, attempts=3)
    before = fed.digest()
    with pytest.raises(RoundError, match=r"round 1 .* 3 times.*south"):
        fed.run()
    assert fed.digest() == before
    assert fed.home.sealed_rounds() == [0]
    assert not fed.home.releases.exists()
    voids = fed.events("round_void")
    assert [event["attempt"] for event in voids] == [1, 2, 3]
    assert all("none yet from south" in event["reason"] for event in voids)
    opened = fed.events("round_opened")
    assert {event["base_digest"] for event in opened} == {before}
    assert 3 * DEADLINE <= fed.world.now < 3 * DEADLINE + 10


def test_a_void_round_is_offered_again_to_those_who_owe_and_counts_each_node_once(
    tmp_path: Path, north: Node, south: Node
) -> None:
    """South misses the first attempt; its late reply and its second one are the same delta."""
    south.answer = lambda plan, base: [(DEADLINE + 2, south.reply(plan, base))]
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    assert (fed.world.offers("north"), fed.world.offers("south")) == ([1], [1, 1])
    assert fed.counted(1) == ["north", "south"]
    expected = mean_by_hand(fed, 1, {north: 1, south: 1})
    np.testing.assert_allclose(fed.sealed(1).vector.values.numpy(), expected, rtol=0, atol=1e-7)


def test_a_late_reply_to_the_last_round_does_not_end_the_wait_for_this_one(
    tmp_path: Path, north: Node, south: Node
) -> None:
    def slow_at_first(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        return [(DEADLINE + 3 if plan.round == 1 else 20.0, south.reply(plan, base))]

    south.answer = slow_at_first
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.run()
    assert fed.counted(1) == ["north"]
    assert fed.counted(2) == ["north", "south", "south"]  # late for round 1, and on time


# ---------------------------------------------------------------- farewell


def test_nodes_hear_that_the_federation_has_finished(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south)
    fed.run()
    farewells = [(name, m) for _, name, m in fed.world.sent if isinstance(m, Farewell)]
    assert {name for name, _ in farewells} == {"north", "south"}
    assert {m for _, m in farewells} == {Farewell("fed", 2, fed.digest())}


def test_a_node_that_does_not_answer_the_farewell_is_not_waited_for_long(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = federation(tmp_path, north, south)
    ended: list[float] = []
    keep = fed.world.arrive

    def lose(delay: float, reply: Reply) -> None:
        if reply.header:
            keep(delay, reply)
        else:
            ended.append(fed.world.now)

    monkeypatch.setattr(fed.world, "arrive", lose)
    fed.run()
    assert len(ended) == 2
    assert ended[0] + FAREWELL_S <= fed.world.now < ended[0] + FAREWELL_S + 2

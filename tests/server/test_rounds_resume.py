"""Kills: whatever was on its way, the same consensus, and nobody is asked for what is in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gobelin.protocols.messages import RoundPlan
from gobelin.server.courier import Reply
from gobelin.server.terms import REJOIN_S
from gobelin.shared.errors import RoundError
from gobelin.shared.vector import ParameterVector
from tests.server.world import (
    NESTEROV,
    Federation,
    Killed,
    Node,
    World,
    federation,
    kill_at,
)


def slow(node: Node, seconds: float) -> None:
    node.answer = lambda plan, base: [(seconds, node.reply(plan, base))]


def killed(fed: Federation, event: str, number: int) -> None:
    """Run until the kill; what was on its way is lost with the aggregator."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, number)
        with pytest.raises(Killed):
            fed.run()
    fed.world = World(*fed.world.all.values())


@pytest.mark.parametrize(
    ("event", "number", "asked"),
    [
        ("round_opened", 3, {"north": [3, 4], "south": [3, 4]}),
        ("contribution", 3, {"north": [4], "south": [3, 4]}),  # north's had come first
        ("round_sealed", 2, {"north": [3, 4], "south": [3, 4]}),
        ("round_sealed", 3, {"north": [4], "south": [4]}),
    ],
)
def test_a_killed_engine_asks_only_those_who_owe_and_comes_to_the_same_digest(
    event: str, number: int, asked: dict[str, Any], tmp_path: Path, north: Node, south: Node
) -> None:
    slow(south, 3.0)
    undisturbed = federation(tmp_path / "a", north, south, rounds=4, outer=NESTEROV)
    undisturbed.run()
    fed = federation(tmp_path / "b", north, south, rounds=4, outer=NESTEROV)
    killed(fed, event, number)
    fed.run()
    assert fed.home.sealed_rounds() == [0, 1, 2, 3, 4]
    assert fed.digest() == undisturbed.digest()
    assert {name: fed.world.offers(name) for name in asked} == asked
    assert all(fed.counted(n) == ["north", "south"] for n in (1, 2, 3, 4))


def points(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Arms a kill before the n-th flush or rename from now on; the list grows with each."""
    passed: list[int] = []
    fuse = [0]

    def guard(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            passed.append(1)
            if len(passed) == fuse[0]:
                raise Killed
            return call(*arguments)

        return guarded

    monkeypatch.setattr(os, "fsync", guard(os.fsync))
    monkeypatch.setattr(Path, "replace", guard(Path.replace))

    def arm(number: int) -> list[int]:
        passed.clear()
        fuse[0] = number
        return passed

    return arm


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.faults)])
def test_a_kill_at_any_write_comes_to_the_same_digest(
    stride: int, tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flush and every rename of two rounds is a place to die, twice in a row."""
    slow(south, 3.0)
    undisturbed = federation(tmp_path / "undisturbed", north, south, outer=NESTEROV)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "founded")
    arm = points(monkeypatch)
    passed = arm(0)
    undisturbed.run()
    places = len(passed)
    assert places > 50
    for place in range(1, places + 1, stride):
        fed = undisturbed.moved(shutil.copytree(tmp_path / "founded", tmp_path / f"{place}"))
        for once in (place, 1 + place % 5):
            arm(once)
            try:
                fed.run()
            except Killed:
                fed.world = World(north, south)
        arm(0)
        fed.run()
        assert fed.digest() == undisturbed.digest(), f"killed at {place}"
        assert [fed.counted(number) for number in (1, 2)] == 2 * [["north", "south"]]
        assert not fed.home.journal.exists()


@pytest.mark.parametrize("damage", ["missing", "one bit", "torn"])
def test_a_damaged_contribution_is_asked_for_again(
    damage: str, tmp_path: Path, north: Node, south: Node
) -> None:
    slow(south, 3.0)
    undisturbed = federation(tmp_path / "a", north, south, rounds=1)
    undisturbed.run()
    fed = federation(tmp_path / "b", north, south, rounds=1)
    killed(fed, "contribution", 1)
    (kept,) = fed.home.journal.glob("*.reply")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data if damage == "one bit" else data[:-100])
    if damage == "missing":
        kept.unlink()
    fed.run()
    assert [event["node"] for event in fed.events("lost")] == ["north"]
    assert fed.world.offers("north") == [1]
    assert fed.digest() == undisturbed.digest()


def test_a_closed_round_stays_closed(tmp_path: Path, north: Node, south: Node) -> None:
    """West comes while the aggregator is down: what was in when the round closed is the round."""
    west = Node("west")
    west.online = False
    undisturbed = federation(tmp_path / "a", north, south, west, rounds=1)
    undisturbed.run()
    fed = federation(tmp_path / "b", north, south, west, rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gobelin.server.seal.write_checkpoint", dying)
        with pytest.raises(Killed):
            fed.run()
    west.online = True
    fed.world = World(north, south, west)
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert fed.digest() == undisturbed.digest()
    assert fed.world.offers("west") == []


def dying(*_: object, **__: object) -> None:
    raise Killed


def test_after_a_kill_nodes_get_time_to_come_back(tmp_path: Path, north: Node, south: Node) -> None:
    slow(south, 3.0)
    undisturbed = federation(tmp_path / "a", north, south, rounds=1, min_members=1)
    undisturbed.run()
    fed = federation(tmp_path / "b", north, south, rounds=1, min_members=1)
    killed(fed, "contribution", 1)
    north.online = south.online = False
    fed.world.happenings.append((REJOIN_S - 5, lambda: setattr(south, "online", True)))
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert fed.digest() == undisturbed.digest()


def test_after_a_kill_nobody_is_waited_for_without_bound(
    tmp_path: Path, north: Node, south: Node
) -> None:
    slow(south, 3.0)
    fed = federation(tmp_path, north, south, rounds=1, min_members=1)
    killed(fed, "contribution", 1)
    south.online = False
    fed.run()
    assert fed.counted(1) == ["north"]
    assert fed.sealed(1).facts["seconds"] < REJOIN_S + 5


def test_what_an_engine_gathered_before_it_gave_up_is_there_for_the_next(
    tmp_path: Path, north: Node, south: Node
) -> None:
    honest = south.answer
    south.answer = lambda plan, base: []
    fed = federation(tmp_path, north, south, rounds=1, attempts=2)
    with pytest.raises(RoundError):
        fed.run()
    south.answer = honest
    fed.world = World(north, south)
    fed.run()
    assert fed.world.offers("north") == []
    assert fed.counted(1) == ["north", "south"]
    assert [event["attempt"] for event in fed.events("round_opened")] == [1, 2, 1]


def test_other_settings_make_another_plan_and_start_the_round_anew(
    tmp_path: Path, north: Node, south: Node
) -> None:
    slow(south, 3.0)
    fed = federation(tmp_path, north, south, rounds=1)
    killed(fed, "contribution", 1)
    text = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(text.replace("local_steps = 3", "local_steps = 4"))
    fed.run()
    assert fed.world.offers("north") == [1]
    assert fed.counted(1) == ["north", "south"]


def test_a_node_that_was_removed_while_the_aggregator_was_down_is_asked_nothing(
    tmp_path: Path, north: Node, south: Node
) -> None:
    """What it had contributed to the open round stays in; the roster counts from the next one."""
    slow(south, 3.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    killed(fed, "contribution", 1)
    entries = tuple(node for node in fed.home.roster().nodes if node.name != "north")
    fed.home.write_roster(type(fed.home.roster())(entries))
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert fed.counted(2) == ["south"]
    assert fed.world.offers("north") == []


def test_a_reply_is_on_disk_before_it_is_said_to_be_in(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=1)
    seen: list[int] = []
    record = type(fed.home).record

    def looking(home: Any, facts: Any) -> None:
        if facts["event"] == "contribution":
            seen.append(len(list(home.journal.glob("*.reply"))))
        record(home, facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fed.home), "record", looking)
        fed.run()
    assert seen == [1, 2]


def test_a_node_is_answered_for_by_its_own_reply_only(
    tmp_path: Path, north: Node, south: Node
) -> None:
    """Two kept replies that changed places are both found out."""
    slow(south, 3.0)

    def answer(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        return [(2.0, north.reply(plan, base))]

    north.answer = answer
    west = Node("west", answer=lambda plan, base: [])
    fed = federation(tmp_path, north, south, west, rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gobelin.server.seal.write_checkpoint", dying)
        with pytest.raises(Killed):
            fed.run()
    one, two = sorted(fed.home.journal.glob("*.reply"))
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    fed.world = World(north, south, west)
    fed.run()
    assert sorted(event["node"] for event in fed.events("lost")) == ["north", "south"]
    assert fed.counted(1) == ["north", "south"]

"""Pausing: the aggregator opens no round, a node declines plans, and both say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gobelin.protocols.messages import PAUSED, Farewell, Notice, RoundPlan
from gobelin.server import cli
from gobelin.server.courier import Reply
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.files import write_atomic
from gobelin.shared.pausing import FILE, begin_pause, end_pause, read_pause
from tests.server.world import DEADLINE, PATIENCE, Federation, Killed, Node, federation, kill_at
from tests.vanishing import vanishing

OVER_S = 3 * PATIENCE


def run(app: typer.Typer, *words: str) -> Any:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def notices(fed: Federation) -> list[tuple[float, str, Notice]]:
    return [(at, name, m) for at, name, m in fed.world.sent if isinstance(m, Notice)]


def resume_at(fed: Federation, at: float) -> None:
    fed.world.happenings.append((at, lambda: end_pause(fed.home.folder)))


def test_while_paused_no_round_opens_and_nobody_gives_up(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=2)
    begin_pause(fed.home.folder, "new disks", 0)
    resume_at(fed, OVER_S)
    fed.run()
    plans = [at for at, _, message in fed.world.sent if isinstance(message, RoundPlan)]
    assert min(plans) >= OVER_S > PATIENCE
    assert fed.home.sealed_rounds() == [0, 1, 2]
    told = notices(fed)
    assert sorted(name for _, name, _ in told) == ["north", "south"]
    what = "paused: new disks (since 1970-01-01 00:00 UTC)"
    assert {notice.what for _, _, notice in told} == {what}
    assert [e["reason"] for e in fed.events("waiting")].count(what) == 1


def test_the_open_round_ends_and_the_next_waits(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=2)

    def once(plan: RoundPlan, base: object) -> list[tuple[float, Reply]]:
        if plan.round == 1:
            begin_pause(fed.home.folder, "later", 0)
            resume_at(fed, OVER_S)
        return [(1.0, south.reply(plan, base))]  # type: ignore[arg-type]

    south.answer = once
    fed.run()
    when = {m.round: at for at, _, m in fed.world.sent if isinstance(m, RoundPlan)}
    assert when[1] < DEADLINE
    assert fed.counted(1) == ["north", "south"]
    assert when[2] >= OVER_S


def test_a_pause_outlives_a_kill_and_tells_who_comes_meanwhile(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = federation(tmp_path, north, south, rounds=2)
    begin_pause(fed.home.folder, "move", 0)
    with monkeypatch.context() as patch:
        patch.setattr(fed.world, "sleep", _die_after(fed, 5.0))
        with pytest.raises(Killed):
            fed.run()
    assert fed.home.sealed_rounds() == [0]

    def again() -> None:
        south.activated_at = "tuesday"

    fed.world.happenings.append((fed.world.now + 20, again))
    resume_at(fed, fed.world.now + 100)
    fed.run()
    names = [name for _, name, _ in notices(fed)]
    assert (names.count("north"), names.count("south")) == (2, 3)
    assert fed.home.sealed_rounds() == [0, 1, 2]


def _die_after(fed: Federation, at: float) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        fed.world.now += seconds
        if fed.world.now >= at:
            raise Killed

    return sleep


def test_a_void_round_is_not_tried_again_while_paused(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=1, attempts=2)
    tries: list[float] = []

    def late(plan: RoundPlan, base: object) -> list[tuple[float, Reply]]:
        tries.append(fed.world.now)
        if len(tries) == 1:
            begin_pause(fed.home.folder, "", 0)
            resume_at(fed, OVER_S)
            return []
        return [(1.0, south.reply(plan, base))]  # type: ignore[arg-type]

    south.answer = late
    fed.run()
    assert [event["attempt"] for event in fed.events("round_opened")] == [1, 2]
    assert tries[1] >= OVER_S


def away_until(node: Node, number: int) -> None:
    """A node declines plans, paused, until round `number`; then it comes back by itself."""

    def answer(plan: RoundPlan, base: object) -> list[tuple[float, Reply]]:
        if node.activated_at == "monday" and plan.round < number:
            return [(0.1, Reply(node.id, error=PAUSED, plan=plan.digest))]
        return [(0.5, node.reply(plan, base))]  # type: ignore[arg-type]

    node.answer = answer


def test_a_paused_node_is_away_by_choice_and_not_asked_again(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    away_until(west, 9)
    fed = federation(tmp_path, north, south, west, rounds=3)
    fed.run()
    assert fed.world.now < DEADLINE  # nobody has waited for it
    assert fed.world.offers("west") == [1]
    for number in (1, 2, 3):
        facts = fed.sealed(number).facts
        assert [(row["node"], row["reason"]) for row in facts["refused"]] == [("west", "paused")]
    assert [event["reason"] for event in fed.events("refused")] == ["paused"]


def test_a_node_that_comes_back_is_asked_in_the_same_round(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    away_until(west, 9)
    north.answer = lambda plan, base: [(30.0, north.reply(plan, base))]
    fed = federation(tmp_path, north, south, west, rounds=1)

    def back() -> None:
        west.activated_at = "tuesday"

    fed.world.happenings.append((10.0, back))
    fed.run()
    assert fed.counted(1) == ["north", "south", "west"]


def test_paused_nodes_do_not_lower_the_quorum_and_cost_no_attempts(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    for node in (south, west):
        away_until(node, 9)
    fed = federation(tmp_path, north, south, west, rounds=1, quorum=0.6, attempts=2)

    def back() -> None:
        south.activated_at = "tuesday"

    fed.world.happenings.append((5 * DEADLINE, back))
    fed.run()
    assert fed.counted(1) == ["north", "south"]
    assert [event["attempt"] for event in fed.events("round_opened")] == [1, 2]
    assert len(fed.events("round_void")) == 1  # the second attempt waited for south to be back
    assert any("1 of 2 members" in event["reason"] for event in fed.events("waiting"))


def test_a_farewell_is_said_though_paused(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    begin_pause(fed.home.folder, "over", 0)
    fed.run()
    assert [type(m) for _, _, m in fed.world.sent].count(Farewell) == 4


def test_the_commands_keep_the_pause_and_say_it(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south)
    home = str(fed.home.folder)
    first = run(cli.app, "pause", "--reason", "new disks", "--home", home, "--json")
    again = run(cli.app, "pause", "--reason", "still", "--home", home, "--json")
    assert (first["reason"], again["reason"]) == ("new disks", "still")
    assert first["since"] == again["since"]
    status = run(cli.app, "status", "--home", home, "--json")
    assert status["paused"] == {"reason": "still", "since": first["since"]}
    assert run(cli.app, "resume", "--home", home, "--json")["was_paused"]
    assert not run(cli.app, "resume", "--home", home, "--json")["was_paused"]
    assert run(cli.app, "status", "--home", home, "--json")["paused"] is None
    assert [e["event"] for e in fed.home.events()[0]] == ["paused", "paused", "resumed"]


def test_a_reason_is_one_line_and_a_damaged_pause_is_said(tmp_path: Path) -> None:
    for reason in ("two\nlines", "naïve", "x" * 201):
        with pytest.raises(ConfigError, match="one line"):
            begin_pause(tmp_path, reason)
    assert read_pause(tmp_path) is None
    write_atomic(tmp_path / FILE, b'{"reason": 1}')
    with pytest.raises(StateError, match="is no pause"):
        read_pause(tmp_path)


def test_a_kill_after_the_pause_ended_changes_nothing(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = federation(tmp_path / "calm", north, south, rounds=2)
    calm.run()
    fed = federation(tmp_path / "paused", north, south, rounds=2)
    begin_pause(fed.home.folder, "", 0)
    resume_at(fed, 50.0)
    with monkeypatch.context() as patch:
        kill_at(patch, "round_sealed", 1)
        with pytest.raises(Killed):
            fed.run()
    fed.run()
    assert fed.digest() == calm.digest()


def test_a_pause_that_ends_while_it_is_looked_at_is_none(tmp_path: Path) -> None:
    """The rounds and the node look many times a second: it would end them one day."""
    begin_pause(tmp_path, "moving")
    with vanishing(tmp_path / FILE):
        assert read_pause(tmp_path) is None

"""Who takes part: quorum, grace, late contributions, members that come and go."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest

from gobelin.protocols.messages import RoundPlan
from gobelin.server.aggregation import InMemory
from gobelin.server.courier import Reply
from gobelin.server.merge import Counted, Merger
from gobelin.server.policy import freshness
from gobelin.server.roster import Roster
from gobelin.shared.errors import RoundError
from gobelin.shared.vector import ParameterVector
from tests.server.world import DEADLINE, Federation, Killed, Node, World, federation, kill_at

HALF = freshness(1, 0.5)  # of a contribution that is one round late


def late(node: Node, delays: dict[int, float]) -> None:
    """The node answers these rounds so many seconds after the offer, all others never."""

    def answer(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if plan.round in delays:
            return [(delays[plan.round], node.reply(plan, base))]
        return []

    node.answer = answer


def steady(node: Node, seconds: float) -> None:
    node.answer = lambda plan, base: [(seconds, node.reply(plan, base))]


def rows(fed: Federation, number: int) -> list[tuple[str, int, float]]:
    """Node, staleness and weight of what a round counted."""
    counted = fed.sealed(number).facts["contributions"]
    return [(row["node"], row["staleness"], row["weight"]) for row in counted]


# ---------------------------------------------------------------- late contributions


def test_a_late_contribution_counts_in_the_next_round_by_its_freshness(
    tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 5})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.run()
    share = float(1 / (1 + HALF))
    assert rows(fed, 1) == [("north", 0, 1.0)]
    assert rows(fed, 2) == [
        ("north", 0, pytest.approx(share)),
        ("south", 1, pytest.approx(1 - share)),
    ]
    base = fed.sealed(1).vector
    fresh = sorted([(north.id, north.delta(2, base), 1), (south.id, south.delta(1, base), HALF)])
    owners = ["north" if node == north.id else "south" for node, _, _ in fresh]
    deltas = InMemory([delta.values for _, delta, _ in fresh])
    voices = [Counted(m, freshness=Fraction(f)) for m, (*_, f) in zip(owners, fresh, strict=True)]
    merged = Merger().merge(deltas, voices, {})
    assert fed.digest() == ParameterVector(base.schema, base.values + merged.delta).digest
    (told,) = fed.events("late")
    assert (told["node"], told["round"], told["staleness"]) == ("south", 2, 1)
    assert told["base_digest"] == fed.sealed(0).vector.digest


def test_a_member_with_a_late_and_a_fresh_contribution_weighs_as_a_fresh_one(
    tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 3, 2: 20.0})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.run()
    south_share = float(HALF / (1 + HALF) / 2)
    assert rows(fed, 2) == [
        ("north", 0, 0.5),
        ("south", 1, pytest.approx(south_share)),
        ("south", 0, pytest.approx(0.5 - south_share)),
    ]
    assert fed.sealed(2).facts["members"]["south"]["weight"] == 0.5


def test_an_answer_that_comes_too_late_is_stale(tmp_path: Path, north: Node, south: Node) -> None:
    late(south, {1: 4 * DEADLINE + 5})
    fed = federation(tmp_path, north, south, rounds=5, min_members=1)
    fed.run()
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"], refused["round"]) == ("south", "stale", 5)
    assert all(fed.counted(number) == ["north"] for number in range(1, 6))


def test_where_nothing_may_be_late_every_late_answer_is_stale(
    tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 5})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1, max_staleness=0)
    fed.run()
    assert [event["reason"] for event in fed.events("refused")] == ["stale"]
    assert fed.counted(2) == ["north"]


def test_a_late_answer_to_a_plan_that_never_was_is_refused(
    tmp_path: Path, north: Node, south: Node
) -> None:
    def invented(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        reply = south.reply(plan, base, plan_digest="0" * 64)
        return [(DEADLINE + 5, reply)] if plan.round == 1 else []

    south.answer = invented
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.run()
    assert [event["reason"] for event in fed.events("refused")] == ["plan_digest"]
    assert fed.counted(2) == ["north"]


def test_a_late_contribution_is_no_quorum(tmp_path: Path, north: Node, south: Node) -> None:
    """Round 2 has south's answer to round 1, but nobody's but north's to itself."""
    west = Node("west")
    late(south, {1: DEADLINE + 5})
    late(west, {1: 1.0})
    fed = federation(tmp_path, north, south, west, rounds=2, attempts=1)
    with pytest.raises(RoundError, match="1 of 2 members contributed, none yet from south, west"):
        fed.run()
    assert len(fed.events("late")) == 1


def test_what_came_twice_counts_once_over_the_federations_life(
    tmp_path: Path, north: Node, south: Node
) -> None:
    def again_and_again(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if plan.round > 1:
            return [(20.0, south.reply(plan, base))]
        return [(DEADLINE + after, south.reply(plan, base)) for after in (3, 4, 30, 50)]

    south.answer = again_and_again
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=4, min_members=1)
    fed.run()
    late_rows = [row for n in (1, 2, 3, 4) for row in rows(fed, n) if row[1]]
    assert [row[:2] for row in late_rows] == [("south", 1)]
    refused = [event["reason"] for event in fed.events("refused")]
    assert refused == ["duplicate", "duplicate", "stale"]


# ---------------------------------------------------------------- kills


def killed(fed: Federation, event: str, number: int) -> None:
    """Run until the kill; what was on its way is lost, what nodes finish is in their spools."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, number)
        with pytest.raises(Killed):
            fed.run()
    now = fed.world.now
    fed.world = World(*fed.world.all.values())
    fed.world.now = now


@pytest.mark.parametrize("event", ["round_opened", "contribution", "late", "round_sealed"])
def test_a_late_contribution_survives_a_kill_and_counts_once(
    event: str, tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 10})
    steady(north, 20.0)
    undisturbed = federation(tmp_path / "a", north, south, rounds=3, min_members=1)
    undisturbed.run()
    assert [row[:2] for row in rows(undisturbed, 2)] == [("north", 0), ("south", 1)]
    north.spool.clear()
    south.spool.clear()
    fed = federation(tmp_path / "b", north, south, rounds=3, min_members=1)
    killed(fed, event, 2)
    fed.world.now += 20.0  # south has finished meanwhile; nobody has heard of it
    fed.run()
    assert [rows(fed, number) for number in (1, 2, 3)] == [
        rows(undisturbed, number) for number in (1, 2, 3)
    ]
    assert fed.digest() == undisturbed.digest()


def test_a_node_is_asked_for_what_it_finished_while_nobody_listened(
    tmp_path: Path, north: Node, south: Node
) -> None:
    """South restarts after round 1 was sealed without it: its work of round 1 is in its spool."""
    late(south, {1: DEADLINE + 2})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.world.happenings += [
        (DEADLINE - 1, lambda: setattr(south, "online", False)),
        (DEADLINE + 10, lambda: setattr(south, "activated_at", "tuesday")),
        (DEADLINE + 10, lambda: setattr(south, "online", True)),
    ]
    fed.run()
    assert fed.world.recalls("south") == [1]
    assert [row[:2] for row in rows(fed, 2)] == [("north", 0), ("south", 1)]


def test_what_is_on_its_way_is_not_asked_for_twice(
    tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 10, 2: 20.0})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.run()
    assert fed.world.recalls("south") == []
    assert fed.world.offers("south") == [1, 2]


def test_a_plan_that_the_wire_has_lost_is_offered_again(
    tmp_path: Path, north: Node, south: Node
) -> None:
    times = iter([True, False])

    def lost_once(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if next(times):
            return [(10.0, Reply(south.id, error="flower:5", plan=plan.digest, lost=True))]
        return [(5.0, south.reply(plan, base))]

    south.answer = lost_once
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    assert fed.world.offers("south") == [1, 1]
    assert fed.counted(1) == ["north", "south"]
    assert fed.events("refused") == []


# ---------------------------------------------------------------- quorum and grace


def test_the_quorum_grows_with_the_roster(tmp_path: Path) -> None:
    silent = [Node(name, answer=lambda plan, base: []) for name in ("a", "b")]
    answering = [Node(name) for name in ("c", "d", "e", "f")]
    for node in answering:
        steady(node, 5.0)
    fed = Federation(
        tmp_path / "home", World(*silent, *answering), answering, rounds=2, quorum=0.75, attempts=1
    )
    for node in silent:
        fed.world.happenings.append((0.3, lambda node=node: fed.admit(node)))
    with pytest.raises(RoundError, match="4 of 5 members contributed, none yet from a, b"):
        fed.run()
    assert fed.home.sealed_rounds() == [0, 1]


def test_after_the_quorum_others_have_the_grace(tmp_path: Path, north: Node) -> None:
    quick, slow = Node("quick"), Node("slow")
    steady(quick, 15.0)
    steady(slow, 27.0)
    fed = federation(tmp_path, north, quick, slow, rounds=1, grace_s=10.0)
    fed.run()
    assert fed.counted(1) == ["north", "quick"]
    assert 25.0 <= fed.sealed(1).facts["seconds"] < 27.0
    assert [row["node"] for row in fed.sealed(1).facts["absent"]] == ["slow"]


# ---------------------------------------------------------------- members come and go


def test_a_member_that_was_away_for_rounds_comes_back(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.online = False
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=6, min_members=1)
    fed.world.happenings.append((70.0, lambda: setattr(south, "online", True)))
    fed.run()
    assert [fed.counted(n) for n in (1, 2, 3)] == [["north"]] * 3
    assert [fed.counted(n) for n in (4, 5, 6)] == [["north", "south"]] * 3
    assert fed.world.recalls("south") == [2, 3]  # it has nothing for them, and is asked once
    assert fed.events("late") == fed.events("refused") == []


def test_a_node_that_leaves_the_roster_is_neither_waited_for_nor_counted(
    tmp_path: Path, north: Node, south: Node
) -> None:
    steady(south, 30.0)
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)

    def leave() -> None:
        fed.home.write_roster(Roster((north.entry,)))

    fed.world.happenings.append((5.0, leave))
    fed.run()
    assert [fed.counted(n) for n in (1, 2)] == [["north"], ["north"]]
    assert fed.sealed(1).facts["seconds"] < 25.0
    assert {event["reason"] for event in fed.events("refused")} == {"not_on_roster"}


def test_an_observer_is_neither_asked_nor_waited_for_nor_counted(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=2, quorum=1.0, min_members=1)
    watching = dataclasses.replace(south.entry, role="observer")
    fed.home.write_roster(Roster((north.entry, watching)))
    fed.run()
    assert [fed.counted(n) for n in (1, 2)] == [["north"], ["north"]]
    assert fed.world.offers("south") == []


def test_a_late_answer_of_a_node_that_has_left_does_not_count(
    tmp_path: Path, north: Node, south: Node
) -> None:
    late(south, {1: DEADLINE + 5})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    fed.world.happenings.append(
        (DEADLINE - 2, lambda: fed.home.write_roster(Roster((north.entry,))))
    )
    fed.run()
    assert fed.counted(2) == ["north"]
    assert fed.events("late") == []


def test_a_round_sealed_by_an_older_version_cannot_be_answered(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    late(south, {1: DEADLINE + 5})
    steady(north, 20.0)
    fed = federation(tmp_path, north, south, rounds=2, min_members=1)
    facts = type(fed.home).facts

    def without_plan(home: object, number: int) -> dict[str, object]:
        return {k: v for k, v in facts(home, number).items() if k != "plan"}

    monkeypatch.setattr(type(fed.home), "facts", without_plan)
    fed.run()
    assert [event["reason"] for event in fed.events("refused")] == ["stale"]

"""Sealed rounds through the engine, in virtual time, against open rounds of the same deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gobelin.protocols.sealing import AGREE, KEYS, MASK, REVEAL, SHARES, SealedCall
from gobelin.server.courier import Reply
from gobelin.server.home import AggregatorHome
from gobelin.server.reasons import RefusalCode
from gobelin.shared.errors import RoundError, SealingError
from tests.answers import wired
from tests.server.sealed_nodes import SealedNode, open_twin, sealed_federation
from tests.server.world import NESTEROV, Federation, Killed

NAMES = ["east", "north", "south", "west"]


def slow(phase: str) -> Any:
    """A phase that CI leaves out."""
    return pytest.param(phase, marks=pytest.mark.slow)


@pytest.fixture
def nodes() -> list[SealedNode]:
    return [SealedNode(name) for name in NAMES]


def everybody(rounds: int = 2) -> dict[int, set[str]]:
    return {number: set(NAMES) for number in range(1, rounds + 1)}


def test_sealed_rounds_move_the_consensus_as_open_ones_do_to_the_bit(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    fed = sealed_federation(tmp_path, nodes, outer=NESTEROV)
    fed.run()
    assert fed.digest() == open_twin(fed, tmp_path, everybody())
    rows = fed.sealed(2).facts["contributions"]
    assert [(row["weight"], row["delta_norm"]) for row in rows] == [(0.25, None)] * 4
    assert fed.sealed(2).facts["retained_norm"] is None


@pytest.mark.parametrize("phase", [slow(KEYS), SHARES, MASK])
def test_who_drops_out_before_its_masked_delta_came_is_not_in_the_sum(
    tmp_path: Path, nodes: list[SealedNode], phase: str
) -> None:
    nodes[1].dies_at = (2, phase)
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    left = set(NAMES) - {"north"}
    assert fed.counted(2) == sorted(left)
    assert fed.digest() == open_twin(fed, tmp_path, {1: set(NAMES), 2: left})
    (refused,) = fed.sealed(2).facts["refused"]
    assert (refused["node"], refused["reason"]) == ("north", RefusalCode.DROPPED_OUT)
    receipts = fed.sealed(2).facts["nodes"][nodes[1].id]["receipts"]
    assert [(r["round"], r["counted"]) for r in receipts] == [(1, True), (2, False)]


@pytest.mark.parametrize("phase", [slow(AGREE), REVEAL])
def test_who_drops_out_after_its_masked_delta_came_is_in_the_sum(
    tmp_path: Path, nodes: list[SealedNode], phase: str
) -> None:
    nodes[1].dies_at = (2, phase)
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    assert fed.counted(2) == NAMES
    assert fed.digest() == open_twin(fed, tmp_path, everybody())


@pytest.mark.parametrize("phase", [slow(KEYS), SHARES, slow(MASK)])
def test_below_the_threshold_the_round_is_void_and_tried_again_with_new_keys(
    tmp_path: Path, nodes: list[SealedNode], phase: str
) -> None:
    for node in nodes[:2]:
        node.away_at = (2, phase)
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    (void,) = fed.events("round_void")
    assert f"2 of 3 nodes answered {phase}, not east, north" in void["reason"]
    assert fed.digest() == open_twin(fed, tmp_path, everybody())
    heard = [(session, phase) for number, session, phase in nodes[3].heard if number == 2]
    first, again = sorted({session for session, _ in heard})
    assert (first, REVEAL) not in heard
    assert (again, REVEAL) in heard
    assert sum(number == 2 for number in fed.world.offers("west")) == 1  # nobody trains again


def test_a_round_that_never_has_enough_is_given_up_and_the_base_stays(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    for node in nodes[:2]:
        node.fails_at = (1, KEYS)
    fed = sealed_federation(tmp_path, nodes)
    with pytest.raises(RoundError, match="too few contributions 3 times: 2 of 3"):
        fed.run()
    assert fed.home.sealed_rounds() == [0]
    assert fed.events("sealing_refused")[0]["reason"] == "gobelin:peers"


def test_who_has_agreed_is_waited_for_and_the_same_session_is_gone_on_with(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    for node in nodes[:2]:
        node.dies_at = (1, REVEAL)
    fed = sealed_federation(tmp_path, nodes)
    with pytest.raises(SealingError, match="2 of 3 nodes answered reveal, not east, north"):
        fed.run()
    for node in nodes[:2]:
        node.dies_at, node.online = None, True
    fed.run()
    assert fed.digest() == open_twin(fed, tmp_path, everybody())
    assert len({session for number, session, _ in nodes[0].heard if number == 1}) == 1


@pytest.mark.parametrize("phase", [slow(KEYS), slow(SHARES), MASK, AGREE, slow(REVEAL)])
def test_a_killed_aggregator_ends_at_the_same_digest(
    tmp_path: Path, nodes: list[SealedNode], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = sealed_federation(tmp_path, nodes)
    with monkeypatch.context() as patch:
        kill_at_phase(patch, phase)
        with pytest.raises(Killed):
            fed.run()
    fed.run()
    assert fed.digest() == open_twin(fed, tmp_path, everybody())
    sessions = {session for number, session, _ in nodes[0].heard if number == 1}
    assert len(sessions) == (1 if phase in (AGREE, REVEAL) else 2)  # with masks in, it is the one


def kill_at_phase(patch: pytest.MonkeyPatch, phase: str) -> None:
    record = AggregatorHome.record

    def dying(home: AggregatorHome, facts: Mapping[str, Any]) -> None:
        if (facts["event"], facts.get("phase")) == ("sealing", phase):
            raise Killed
        record(home, facts)

    patch.setattr(AggregatorHome, "record", dying)


def test_a_sum_that_is_none_is_lost_and_the_next_round_goes_on_from_the_same_base(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    nodes[0].bursts_in = {1}
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    (lost,) = fed.events("round_lost")
    assert lost["round"] == 1
    assert "out of range" in lost["reason"]
    assert fed.sealed(1).vector.digest == fed.sealed(0).vector.digest
    assert {row["reason"] for row in fed.sealed(1).facts["refused"]} == {RefusalCode.GARBLED}
    assert fed.counted(2) == NAMES


def test_what_comes_in_the_clear_is_refused(tmp_path: Path, nodes: list[SealedNode]) -> None:
    loud = nodes[0]

    def in_the_clear(plan: Any, base: Any) -> Any:
        delta = loud.held(plan, base)
        honest = loud.announce(plan, base, delta_digest=delta.digest)
        return [(0.5, replace(honest, arrays=wired(delta.segments())))]

    loud.answer = in_the_clear
    fed = sealed_federation(tmp_path, nodes, rounds=1)
    fed.run()
    assert fed.counted(1) == NAMES[1:]
    assert fed.events("refused")[0]["reason"] == RefusalCode.UNSEALED


def test_fewer_local_steps_than_the_plans_are_refused(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    nodes[0].answer = lambda plan, base: [(0.5, nodes[0].announce(plan, base, local_steps=1))]
    fed = sealed_federation(tmp_path, nodes, rounds=1)
    fed.run()
    assert fed.counted(1) == NAMES[1:]
    assert fed.events("refused")[0]["reason"] == RefusalCode.LOCAL_STEPS


def test_a_masked_delta_in_an_open_round_is_refused(tmp_path: Path) -> None:
    from tests.server.world import Node, federation

    north, south = Node("north"), Node("south")
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, sealed=True))]
    fed: Federation = federation(tmp_path, north, south, rounds=1, min_members=1, deadline_s=5.0)
    fed.run()
    assert fed.events("refused")[0]["reason"] == RefusalCode.UNSEALED


def test_an_answer_that_comes_after_its_phase_is_no_contribution(
    tmp_path: Path, nodes: list[SealedNode]
) -> None:
    fed = sealed_federation(tmp_path, nodes)
    late = nodes[0]
    honest = late.hear

    def hear(call: SealedCall, aggregator: str) -> Reply:
        reply = honest(call, aggregator)
        if call.phase == REVEAL:
            fed.world.arrive(0.1, replace(reply, plan=""))  # once more, when the next round is open
            fed.world.arrive(0.9, replace(reply, plan=call.digest))
        return reply

    late.hear = hear  # type: ignore[method-assign]
    late.answer = lambda plan, base: [(5.0, late.announce(plan, base))]
    fed.run()
    assert fed.counted(2) == NAMES
    assert not fed.events("refused")


def test_whose_signatures_are_shown_for_a_reveal_outlives_the_aggregator(
    tmp_path: Path, nodes: list[SealedNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = sealed_federation(tmp_path, nodes, rounds=1)
    with monkeypatch.context() as patch:
        kill_at_phase(patch, REVEAL)
        with pytest.raises(Killed):
            fed.run()
    nodes[0].online = False  # the others' signatures alone would be another call
    fed.run()
    assert fed.counted(1) == NAMES
    assert not fed.events("sealing_refused")

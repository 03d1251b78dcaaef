"""Rounds whose consensus is broadcast in steps: who is sent what, and what nodes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gobelin.protocols.messages import Farewell, Receipt, RoundPlan
from gobelin.server.broadcast import STEP, broadcast
from gobelin.server.courier import Parcel, Reply
from gobelin.shared.checkpoint import read_extra
from gobelin.shared.errors import CheckpointError
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

WHOLE = None


def parcels_of(fed: Federation, node: Node) -> list[Parcel]:
    return [parcel for parcel in fed.world.parcels if parcel.node == node.id]


def sent(fed: Federation, node: Node) -> list[tuple[int, int | None]]:
    """The rounds a node was offered, and how many steps it was sent for each: None, the base."""
    return [
        (parcel.message.round, parcel.enclosure.facts()["steps"])
        for parcel in parcels_of(fed, node)
        if isinstance(parcel.message, RoundPlan) and parcel.enclosure is not None
    ]


def told(fed: Federation, node: Node, number: int | None) -> list[Receipt]:
    """The receipts that came with the last offer of a round; None: with the farewell."""
    receipts: list[Receipt] = []
    for parcel in parcels_of(fed, node):
        message = parcel.message
        if number == (None if isinstance(message, Farewell) else message.round):
            receipts = list(parcel.receipts)
    return receipts


def fate(receipt: Receipt) -> tuple[int, bool, str, float]:
    return receipt.round, receipt.counted, receipt.reason, receipt.weight


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("codec", ["bf16", "int8", "int4", "topk"])
def test_after_the_first_base_nodes_are_sent_a_step_a_round(
    tmp_path: Path, north: Node, south: Node, codec: str
) -> None:
    fed = federation(tmp_path, north, south, rounds=4, broadcast=codec)
    fed.run()
    for node in (north, south):
        assert sent(fed, node) == [(1, WHOLE), (2, 1), (3, 1), (4, 1)]
        assert node.base is not None
        assert node.base.digest == fed.sealed(3).vector.digest


def test_the_consensus_is_what_was_broadcast(tmp_path: Path, north: Node, south: Node) -> None:
    exact = federation(tmp_path / "a", north, south, rounds=1, outer=NESTEROV)
    exact.run()
    fed = federation(tmp_path / "b", north, south, rounds=2, outer=NESTEROV, broadcast="int4")
    fed.run()
    base, wanted = fed.sealed(0).vector, exact.sealed(1).vector
    expected = broadcast("int4", base, wanted, None)
    sealed = fed.sealed(1)
    assert sealed.vector.digest == expected.consensus.digest != wanted.digest
    assert expected.owed is not None
    assert torch.equal(sealed.extra["owed"]["residual"], expected.owed)
    assert expected.payload is not None
    assert sealed.facts[STEP] == {
        "codec": "int4",
        "bytes": expected.payload.size,
        "distortion": expected.distortion,
    }


def test_what_one_broadcast_leaves_out_a_later_one_says(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=3, broadcast="int4")
    fed.run()
    base, last = fed.sealed(0).vector, fed.sealed(3)
    wanted = base.values.double()
    for number in (1, 2, 3):
        wanted += sum(n.delta(number, base).values.double() for n in (north, south)) / 2
    short = last.extra["owed"]["residual"].double()
    assert torch.allclose(last.vector.values.double() + short, wanted, rtol=0, atol=1e-6)
    assert float(short.abs().max()) > 1e-4


def test_a_lossless_broadcast_sends_whole_bases_and_keeps_nothing(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=3)
    fed.run()
    assert sent(fed, north) == [(1, WHOLE), (2, WHOLE), (3, WHOLE)]
    assert all(set(fed.sealed(number).extra) == set() for number in (1, 2, 3))
    assert STEP not in fed.sealed(3).facts


def away(fed: Federation, node: Node, begin: int, end: int) -> None:
    """Let a node be offline while the rounds `begin` to `end` are offered."""

    def come_and_go() -> None:
        rounds = [event["round"] for event in fed.events("round_sealed")]
        open_round = (rounds or [0])[-1] + 1
        node.online = not begin <= open_round <= end
        fed.world.happenings.append((fed.world.now, come_and_go))

    come_and_go()


def test_a_node_that_was_away_is_sent_all_steps_it_missed(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    fed = federation(tmp_path, north, south, west, rounds=5, broadcast="int8")
    away(fed, west, 3, 4)
    fed.run()
    assert sent(fed, west) == [(1, WHOLE), (2, 1), (5, 3)]


def test_a_node_that_was_away_for_long_is_sent_the_base_once_that_is_less(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    fed = federation(tmp_path, north, south, west, rounds=6, broadcast="int8")
    away(fed, west, 3, 5)
    fed.run()
    assert sent(fed, west) == [(1, WHOLE), (2, 1), (6, WHOLE)]  # four times 8 bits


def test_a_new_node_is_sent_the_base(tmp_path: Path, north: Node, south: Node) -> None:
    west = Node("west")
    fed = federation(tmp_path, north, south, west, rounds=3, broadcast="int8")
    away(fed, west, 1, 2)
    fed.run()
    assert sent(fed, west) == [(3, WHOLE)]


@pytest.mark.parametrize("has", ["nothing", "another base"])
def test_a_node_that_lost_its_base_is_sent_it_at_once(
    tmp_path: Path, north: Node, south: Node, has: str
) -> None:
    undisturbed = federation(tmp_path / "a", north, south, rounds=4, broadcast="int8")
    undisturbed.run()
    fed = federation(tmp_path / "b", north, south, rounds=4, broadcast="int8")
    answer = south.answer

    def lose_it(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if plan.round == 2:
            south.base = fed.sealed(0).vector if has == "another base" else None
        return answer(plan, base)

    south.answer = lose_it
    fed.run()
    assert sent(fed, north) == [(1, WHOLE), (2, 1), (3, 1), (4, 1)]
    assert sent(fed, south) == [(1, WHOLE), (2, 1), (3, 1), (3, WHOLE), (4, 1)]
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"]) == ("south", "contribution.base_missing")
    assert fed.counted(3) == ["north", "south"]
    assert fed.digest() == undisturbed.digest()
    assert fed.sealed(3).facts["seconds"] < 2  # and not after a restart or the deadline


def test_a_node_that_says_so_of_a_whole_base_is_not_asked_for_ever(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    west = Node("west")
    monkeypatch.setattr(west, "base_of", lambda parcel: None)
    fed = federation(tmp_path, north, south, west, rounds=1, broadcast="int8")
    fed.run()
    assert sent(fed, west) == [(1, WHOLE), (1, WHOLE)]
    assert {(e["node"], e["reason"]) for e in fed.events("refused")} == {
        ("west", "contribution.base_missing")
    }
    assert fed.counted(1) == ["north", "south"]


def test_a_node_that_restarts_within_a_round_goes_on_from_what_it_has(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=2, broadcast="int8")

    def once(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if plan.round == 2 and south.activated_at == "monday":
            south.activated_at = "tuesday"
            return []
        return [(0.5, south.reply(plan, base))]

    south.answer = once
    fed.run()
    assert sent(fed, south) == [(1, WHOLE), (2, 1), (2, 1)]
    assert fed.counted(2) == ["north", "south"]
    assert fed.events("refused") == []


@pytest.mark.parametrize("event", ["round_opened", "contribution", "round_sealed"])
def test_a_killed_aggregator_goes_on_in_steps_to_the_same_digest(
    tmp_path: Path, event: str
) -> None:
    def nodes() -> list[Node]:
        return [Node("north"), Node("south")]

    options: dict[str, Any] = {"rounds": 4, "broadcast": "topk", "outer": NESTEROV}
    undisturbed = federation(tmp_path / "a", *nodes(), **options)
    undisturbed.run()
    fed = federation(tmp_path / "b", *nodes(), **options)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, 3)
        with pytest.raises(Killed):
            fed.run()
    fed.world = World(*fed.world.all.values())
    fed.run()
    assert fed.digest() == undisturbed.digest()
    for node in fed.world.all.values():
        assert all(steps is not WHOLE for _, steps in sent(fed, node))


def test_a_damaged_step_is_never_sent(tmp_path: Path, north: Node, south: Node) -> None:
    fed = federation(tmp_path, north, south, rounds=2, broadcast="int8")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "round_opened", 2)
        with pytest.raises(Killed):
            fed.run()
    folder = fed.home.round_folder(1)
    file = folder / f"{STEP}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError):
        read_extra(folder, STEP)
    file.write_bytes(whole)
    checkpoint = fed.sealed(1)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.MonkeyPatch.context() as patch:  # it rots while the aggregator runs
        patch.setattr(type(fed.home), "latest", lambda home: (1, checkpoint))
        fed.run()
    assert sent(fed, north)[-1] == (2, WHOLE)
    assert [STEP in event["what"] for event in fed.events("damaged")] == [True]


def test_the_event_log_says_what_each_node_was_sent(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=2, broadcast="int8")
    fed.run()
    size = fed.sealed(0).vector.schema.size
    first, second = (event["nodes"] for event in fed.events("offered"))
    assert first["north"] == first["south"] == {"steps": None, "bytes": 4 * size}
    bytes_of_step = fed.sealed(1).facts[STEP]["bytes"]
    assert second["north"] == second["south"] == {"steps": 1, "bytes": bytes_of_step}
    assert bytes_of_step < 4 * size / 3.9
    assert fed.events("round_sealed")[0][STEP]["bytes"] == bytes_of_step


# ---------------------------------------------------------------- receipts


def test_every_offer_says_what_became_of_the_last_contributions(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west", "south")
    fed = federation(tmp_path, north, south, west, rounds=3)
    fed.run()
    assert told(fed, north, 1) == []
    assert [fate(receipt) for receipt in told(fed, north, 2)] == [(1, True, "", 0.5)]
    assert [fate(receipt) for receipt in told(fed, west, 2)] == [(1, True, "", 0.25)]
    rows = {row["node"]: row["delta_digest"] for row in fed.sealed(1).facts["contributions"]}
    assert told(fed, north, 2)[0].delta_digest == rows["north"]
    assert [receipt.round for receipt in told(fed, north, None)] == [2, 3]


def test_a_refused_node_is_told_why(tmp_path: Path, north: Node, south: Node) -> None:
    west = Node("west")
    west.answer = lambda plan, base: [(0.5, west.reply(plan, base, local_steps=99))]
    fed = federation(tmp_path, north, south, west, rounds=2)
    fed.run()
    assert [fate(receipt) for receipt in told(fed, west, 2)] == [(1, False, "local_steps", 0.0)]


def test_of_what_came_too_late_nothing_is_said(tmp_path: Path, north: Node, south: Node) -> None:
    """The node concludes it: what is not among its receipts has not counted."""
    west = Node("west")
    west.answer = lambda plan, base: [(90.0 if plan.round == 2 else 1.0, west.reply(plan, base))]
    fed = federation(tmp_path, north, south, west, rounds=3, max_staleness=0)
    fed.run()
    assert fed.counted(2) == ["north", "south"]
    assert [receipt.round for receipt in told(fed, west, 3)] == [1]


def test_of_what_may_still_come_it_is_said_that_nothing_is_known(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    west.answer = lambda plan, base: [(90.0 if plan.round == 2 else 40.0, west.reply(plan, base))]
    fed = federation(tmp_path, north, south, west, rounds=4)
    fed.run()
    assert [row["staleness"] for row in fed.sealed(3).facts["contributions"]] == [0, 0, 1, 0]
    said = [(receipt.round, receipt.reason) for receipt in told(fed, west, 3)]
    assert said == [(1, ""), (2, "pending")]
    assert [fate(receipt)[:2] for receipt in told(fed, west, 4)] == [(2, True), (3, True)]
    late = fed.sealed(3).facts["contributions"][2]
    assert told(fed, west, 4)[0].delta_digest == late["delta_digest"]
    assert told(fed, west, 4)[0].weight == late["weight"]


def test_a_late_answer_that_is_refused_has_its_last_word(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")

    def answer(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        spoiled = {"delta_digest": "0" * 64} if plan.round == 2 else {}
        return [(90.0 if plan.round == 2 else 40.0, west.reply(plan, base, **spoiled))]

    west.answer = answer
    fed = federation(tmp_path, north, south, west, rounds=4)
    fed.run()
    said = [(receipt.round, receipt.reason) for receipt in told(fed, west, 4)]
    assert said == [(2, "delta_digest"), (3, "")]
    assert fed.world.recalls("west") == []


def test_receipts_outlive_the_aggregator_and_wait_for_nodes_that_are_away(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    fed = federation(tmp_path, north, south, west, rounds=6)
    away(fed, west, 3, 5)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "round_opened", 4)
        with pytest.raises(Killed):
            fed.run()
    fed.world = World(*fed.world.all.values())
    away(fed, west, 3, 5)
    fed.run()
    settled = [fate(r)[:2] for r in told(fed, west, 6) if r.reason != "pending"]
    assert settled == [(1, True), (2, True)]

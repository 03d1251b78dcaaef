"""The round engine: what is counted, and what is refused."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gobelin.protocols.messages import RoundPlan
from gobelin.server import ledger as round_ledger
from gobelin.server import rounds as engine
from gobelin.server.courier import Reply
from gobelin.server.ledger import RoundLedger
from gobelin.server.open_round import OpenRound
from gobelin.server.seal import Standing
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.errors import RoundError
from gobelin.shared.ledger import Entry
from gobelin.shared.vector import ParameterVector
from tests.server.world import (
    NESTEROV,
    Node,
    World,
    federation,
    mean_by_hand,
)


def test_every_round_is_sealed_and_the_last_is_released(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=3)
    fed.run()
    assert fed.home.sealed_rounds() == [0, 1, 2, 3]
    assert [event["round"] for event in fed.events("round_sealed")] == [1, 2, 3]
    assert fed.events("finished")[0]["vector_digest"] == fed.digest()
    release = read_checkpoint(fed.home.releases / "release-00003")
    assert release.vector.digest == fed.digest()
    assert [path.name for path in fed.home.releases.iterdir()] == ["release-00003"]


def test_a_round_that_is_over_is_let_go_with_its_vectors(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[weakref.ref[OpenRound]] = []

    class Watched(OpenRound):
        def __init__(self, *parts: Any) -> None:
            assert [one() for one in begun] == [None] * len(begun)
            super().__init__(*parts)
            begun.append(weakref.ref(self))

    monkeypatch.setattr(engine, "OpenRound", Watched)
    gc.collect()
    gc.disable()  # a cycle would keep base and consensus until the collector comes by
    try:
        federation(tmp_path, north, south, rounds=3).run()
    finally:
        gc.enable()
    assert len(begun) == 3


def test_a_release_reads_the_ledger_a_round_at_a_time(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[Entry]] = []
    entry = RoundLedger.entry

    def watched(ledger: RoundLedger, number: int) -> Entry:
        assert sum(one() is not None for one in read) <= 2  # the released round's, and the last
        found = entry(ledger, number)
        if number not in ledger._recent:
            read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(RoundLedger, "entry", watched)
    monkeypatch.setattr(round_ledger, "RECENT", 1)
    federation(tmp_path, north, south, rounds=6, release_every=6).run()
    assert len(read) >= 5


def test_releases_come_as_often_as_asked_for_and_at_the_end(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=5, release_every=2)
    fed.run()
    names = sorted(path.name for path in fed.home.releases.iterdir())
    assert names == ["release-00002", "release-00004", "release-00005"]


def test_each_round_starts_from_the_consensus_of_the_last(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=3)
    fed.run()
    for number in (1, 2, 3):
        before, after = fed.sealed(number - 1), fed.sealed(number)
        assert after.facts["base_digest"] == before.vector.digest
        assert after.vector.digest != before.vector.digest
    plans = {m.round: m for _, _, m in fed.world.sent if isinstance(m, RoundPlan)}
    for number, plan in plans.items():
        assert (plan.rounds, plan.local_steps, plan.seed) == (3, 3, 1)
        assert fed.sealed(number).facts["plan_digest"] == plan.digest


def test_the_consensus_is_the_base_plus_the_mean_of_the_deltas(
    tmp_path: Path, north: Node, south: Node
) -> None:
    west = Node("west")
    fed = federation(tmp_path, north, south, west, rounds=2)
    fed.run()
    for number in (1, 2):
        expected = mean_by_hand(fed, number, {north: 1, south: 1, west: 1})
        found_values = fed.sealed(number).vector.values.double().numpy()
        np.testing.assert_allclose(found_values, expected, rtol=0, atol=1e-7)


def test_a_member_with_two_nodes_counts_as_one(tmp_path: Path, north: Node) -> None:
    one, two = Node("south-1", "south"), Node("south-2", "south")
    fed = federation(tmp_path, north, one, two, rounds=1)
    fed.run()
    expected = mean_by_hand(fed, 1, {north: 1, one: 0.5, two: 0.5})
    np.testing.assert_allclose(fed.sealed(1).vector.values.numpy(), expected, rtol=0, atol=1e-7)
    rows = fed.sealed(1).facts["contributions"]
    assert [row["node"] for row in rows] == ["north", "south-1", "south-2"]
    assert [row["weight"] for row in rows] == [0.5, 0.25, 0.25]
    members = fed.sealed(1).facts["members"]
    assert {name: row["weight"] for name, row in members.items()} == {"north": 0.5, "south": 0.5}


def test_two_nodes_of_one_member_are_not_two_members(tmp_path: Path) -> None:
    one, two = Node("south-1", "south"), Node("south-2", "south")
    fed = federation(tmp_path, one, two, min_members=2)
    with pytest.raises(RoundError, match="1 of 2 members came online"):
        fed.run()
    assert fed.home.sealed_rounds() == [0]


def test_the_order_of_arrival_does_not_change_the_consensus(
    tmp_path: Path, north: Node, south: Node
) -> None:
    first = federation(tmp_path / "a", north, south)
    first.run()
    north.answer = lambda plan, base: [(7.0, north.reply(plan, base))]
    second = federation(tmp_path / "b", south, north)
    second.run()
    assert first.digest() == second.digest()
    order = [event["node"] for event in second.events("contribution")][:2]
    assert order == ["south", "north"]


@pytest.mark.parametrize("samples", [0, 48])  # as many as its steps have at most
def test_what_nodes_report_is_kept_and_weighs_nothing(
    samples: int, tmp_path: Path, north: Node, south: Node
) -> None:
    honest = federation(tmp_path / "a", north, south, rounds=1)
    honest.run()
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, samples=samples))]
    boasting = federation(tmp_path / "b", north, south, rounds=1)
    boasting.run()
    assert boasting.digest() == honest.digest()
    assert [row["samples"] for row in boasting.sealed(1).facts["contributions"]] == [16, samples]


def test_the_retained_norm_says_how_far_members_agree(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = federation(tmp_path / "a", north, south, rounds=1)
    apart.run()
    assert apart.sealed(1).facts["retained_norm"] == pytest.approx(0.5**0.5, abs=0.02)
    monkeypatch.setattr(south, "delta", north.delta)
    agreed = federation(tmp_path / "b", north, south, rounds=1)
    agreed.run()
    assert agreed.sealed(1).facts["retained_norm"] == pytest.approx(1.0, abs=1e-6)


# ---------------------------------------------------------------- refusals


def test_a_node_that_restarts_is_offered_the_round_again(
    tmp_path: Path, north: Node, south: Node
) -> None:
    def dies_once(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        return [] if south.activated_at == "monday" else [(0.5, south.reply(plan, base))]

    south.answer = dies_once
    fed = federation(tmp_path, north, south, rounds=1)
    fed.world.happenings.append((10.0, lambda: setattr(south, "activated_at", "tuesday")))
    fed.run()
    assert fed.world.offers("south") == [1, 1]
    assert fed.world.offers("north") == [1]  # counted already
    assert fed.counted(1) == ["north", "south"]
    assert fed.events("round_void") == []


def test_a_refused_node_that_restarts_may_try_again(
    tmp_path: Path, north: Node, south: Node
) -> None:
    def broken_once(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        broken = south.activated_at == "monday"
        reply = Reply(south.id, error="gobelin:data") if broken else south.reply(plan, base)
        return [(0.5, reply)]

    south.answer = broken_once
    fed = federation(tmp_path, north, south, rounds=1)
    fed.world.happenings.append((10.0, lambda: setattr(south, "activated_at", "tuesday")))
    fed.run()
    assert fed.counted(1) == ["north", "south"]


def test_a_node_that_stays_is_offered_a_round_once(
    tmp_path: Path, north: Node, south: Node
) -> None:
    south.answer = lambda plan, base: [(30.0, south.reply(plan, base))]
    fed = federation(tmp_path, north, south, rounds=2)
    fed.run()
    assert fed.world.offers("south") == [1, 2]
    assert fed.world.offers("north") == [1, 2]


def test_what_a_round_hands_on_of_offers_does_not_grow(
    tmp_path: Path, north: Node, south: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aggregator of thousands of rounds remembers those that may still be answered."""
    fed, handed = federation(tmp_path, north, south, rounds=6, max_staleness=2), []
    run = OpenRound.run

    def noted(opened: OpenRound) -> Standing:
        standing = run(opened)
        handed.append(sorted({asked.round for asked in opened.known.offered}))
        return standing

    monkeypatch.setattr(OpenRound, "run", noted)
    fed.run()
    assert handed == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]


def test_the_outer_momentum_is_part_of_the_checkpoint(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south, rounds=2, outer=NESTEROV)
    fed.run()
    velocity = fed.sealed(2).extra["outer"]["velocity"]
    assert float(velocity.norm()) > 0
    assert read_checkpoint(fed.home.releases / "release-00002").extra == {}


def test_a_finished_federation_run_again_changes_nothing(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south)
    fed.run()
    before = fed.digest()
    fed.world = World(north, south)
    fed.run()
    assert fed.digest() == before
    assert fed.world.offers("north") == []


def test_a_kill_between_the_last_seal_and_its_release_still_releases(
    tmp_path: Path, north: Node, south: Node
) -> None:
    fed = federation(tmp_path, north, south)
    fed.run()
    shutil.rmtree(fed.home.releases)  # what the disk holds after such a kill
    fed.run()
    assert read_checkpoint(fed.home.releases / "release-00002").vector.digest == fed.digest()

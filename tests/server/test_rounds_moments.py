"""Moments in rounds: pooled at the seal, in the checkpoint, with the next plan, kills or not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gobelin.protocols.messages import RoundPlan
from gobelin.server.pooling import pool_members
from gobelin.server.seal import Standing
from gobelin.shared.objective import Moments
from gobelin.shared.recipe import load_recipe
from tests.server.world import Federation, Killed, Node, World, federation, kill_at

DIM = load_recipe("toy").projector.out


def three() -> list[Node]:
    return [Node("north"), Node("south-1", "south"), Node("south-2", "south")]


def across(folder: Path, *nodes: Node, **rounds: Any) -> Federation:
    return federation(folder, *nodes, **{"cross_node": True, "rounds": 3, **rounds})


def plans(fed: Federation) -> dict[int, RoundPlan]:
    return {m.round: m for _, _, m in fed.world.sent if isinstance(m, RoundPlan)}


def by_hand(nodes: list[Node], plan: RoundPlan) -> Moments:
    """What the nodes' moments of a round come to; every member one voice."""
    sent = {node.id: node.moments(plan) for node in nodes}
    seen = {node: Moments.from_bytes(data, DIM) for node, data in sent.items() if data}
    pooled = pool_members(seen, {node.id: node.entry.member for node in nodes})
    assert pooled is not None
    return pooled


def pooled(fed: Federation, number: int) -> Moments:
    found = Standing.of(fed.sealed(number)).moments
    assert found is not None
    return found


def test_every_plan_names_the_pooled_moments_of_the_last_base(tmp_path: Path) -> None:
    nodes = three()
    fed = across(tmp_path, *nodes)
    fed.run()
    asked = plans(fed)
    assert [asked[n].cross_node for n in (1, 2, 3)] == [
        True,
        True,
        False,
    ]  # the last base's: no use
    assert asked[1].moments_digest == ""
    for number in (1, 2):
        expected = by_hand(nodes, asked[number])
        assert pooled(fed, number).to_bytes() == expected.to_bytes()
        assert asked[number + 1].moments_digest == expected.digest
        assert fed.sealed(number).facts["moments_digest"] == expected.digest
    assert Standing.of(fed.sealed(3)).moments is None
    assert [event["moments"] for event in fed.events("round_sealed")] == [
        *2 * [["north", "south"]],
        [],
    ]


def test_a_release_carries_no_moments(tmp_path: Path) -> None:
    fed = across(tmp_path, *three(), release_every=1)
    fed.run()
    names = {path.name for path in fed.home.releases.rglob("*.safetensors")}
    assert names == {"model.safetensors"}
    assert (fed.home.round_folder(1) / "cross_node.safetensors").exists()


def test_without_cross_node_nobody_is_asked(tmp_path: Path) -> None:
    fed = across(tmp_path, *three(), cross_node=False)
    fed.run()
    assert {(plan.cross_node, plan.moments_digest) for plan in plans(fed).values()} == {(False, "")}
    assert not list(fed.home.rounds.rglob("cross_node.safetensors"))


def test_who_declines_counts_and_weighs_nothing_in_the_pool(tmp_path: Path) -> None:
    nodes = [*three(), Node("west")]
    nodes[3].declines = True
    fed = across(tmp_path, *nodes)
    fed.run()
    assert fed.counted(1) == ["north", "south-1", "south-2", "west"]
    rows = fed.sealed(1).facts["contributions"]
    assert [row["node"] for row in rows if not row["moments_digest"]] == ["west"]
    assert pooled(fed, 1).digest == by_hand(nodes[:3], plans(fed)[1]).digest


def test_one_members_moments_go_to_nobody(tmp_path: Path) -> None:
    nodes = three()
    nodes[0].declines = True
    fed = across(tmp_path, *nodes)
    fed.run()
    assert [plan.moments_digest for plan in plans(fed).values()] == ["", "", ""]


def test_moments_nobody_asked_for_are_refused_with_their_contribution(tmp_path: Path) -> None:
    eager = Node("east")
    eager.moments = lambda plan: Node.moments(eager, replace(plan, cross_node=True))
    fed = across(tmp_path, *three(), eager, cross_node=False, rounds=1)
    fed.run()
    assert fed.counted(1) == ["north", "south-1", "south-2"]
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"]) == ("east", "moments_unasked")


def test_the_order_of_arrival_does_not_change_the_pool(tmp_path: Path) -> None:
    digests = set()
    for i, delays in enumerate(itertools.permutations([0.5, 3.0, 9.0])):
        nodes = three()
        for node, delay in zip(nodes, delays, strict=True):
            node.answer = lambda plan, base, n=node, d=delay: [(d, n.reply(plan, base))]
        fed = across(tmp_path / str(i), *nodes, rounds=2)
        fed.run()
        digests.add(pooled(fed, 1).digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("event", "number"), [("contribution", 2), ("round_sealed", 2), ("round_opened", 3)]
)
def test_a_killed_aggregator_still_knows_the_moments_it_has(
    event: str, number: int, tmp_path: Path
) -> None:
    nodes = three()
    nodes[2].answer = lambda plan, base: [(3.0, nodes[2].reply(plan, base))]
    undisturbed = across(tmp_path / "a", *nodes)
    undisturbed.run()
    fed = across(tmp_path / "b", *nodes)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, event, number)
        with pytest.raises(Killed):
            fed.run()
    fed.world = World(*nodes)
    fed.run()
    for sealed in (1, 2):
        assert pooled(fed, sealed).to_bytes() == pooled(undisturbed, sealed).to_bytes()
    assert plans(fed)[3] == plans(undisturbed)[3]


def test_moments_damaged_in_the_journal_are_asked_for_again(tmp_path: Path) -> None:
    nodes = three()
    for node in nodes[1:]:
        node.answer = lambda plan, base, n=node: [(3.0, n.reply(plan, base))]
    undisturbed = across(tmp_path / "a", *nodes, rounds=2)
    undisturbed.run()
    fed = across(tmp_path / "b", *nodes, rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "contribution", 1)
        with pytest.raises(Killed):
            fed.run()
    (kept,) = fed.home.journal.glob("*.reply")
    data, moments = kept.read_bytes(), nodes[0].moments(plans(fed)[1])
    assert moments in data
    kept.write_bytes(data.replace(moments, moments[:-1] + bytes([moments[-1] ^ 1])))
    fed.world = World(*nodes)
    fed.run()
    assert fed.world.offers("north") == [1, 2]
    assert pooled(fed, 1).digest == pooled(undisturbed, 1).digest
    assert fed.digest() == undisturbed.digest()

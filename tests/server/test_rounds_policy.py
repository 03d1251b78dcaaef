"""Evidence, unequal steps and fragments in real rounds: what counts, what is on record, kills."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.protocols.messages import RoundPlan
from gobelin.server.aggregation import InMemory
from gobelin.server.courier import Reply
from gobelin.server.merge import Counted, Merger
from gobelin.server.probe import ProbeLoss
from gobelin.server.progress import describe
from gobelin.shared.codec import codec_named
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.errors import RoundError
from gobelin.shared.fragments import fragment_of_round, fragments_of
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from tests.server.test_evidence import images
from tests.server.world import NESTEROV, Federation, Killed, Node, federation, kill_at

RECIPE = load_recipe("toy")
NAMES = ("east", "north", "south", "west", "zorn")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    for number, image in enumerate(images(32)):
        Image.fromarray(np.asarray(image[0])).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def lesson() -> torch.Tensor:
    """What honest training of the first model comes to, (P,)."""
    base = ParameterVector.of(build_jepa(RECIPE, 1))  # the federation's seed
    stream = BatchStream(MemorySource(images(64, seed=1)), 16, seed=2)
    trained, _ = LocalTrainer(RECIPE, stream.batch).train(base, LocalSteps(0, 30, 60, 1, 2))
    return (trained - base).values


def teaching(name: str, lesson: torch.Tensor, share: float) -> Node:
    """A node that sends so much of the lesson, and a little of its own."""
    node = Node(name)
    own = node.delta

    def delta(number: int, base: ParameterVector) -> ParameterVector:
        return ParameterVector(base.schema, share * lesson + 0.01 * own(number, base).values)

    node.delta = delta
    return node


def class_of(lesson: torch.Tensor, *shares: float) -> list[Node]:
    return [teaching(name, lesson, share) for name, share in zip(NAMES, shares, strict=False)]


def rows(fed: Federation, number: int) -> dict[str, dict[str, Any]]:
    return {row["node"]: row for row in fed.sealed(number).facts["contributions"]}


# ---------------------------------------------------------------- evidence


def test_what_harms_is_refused_with_the_evidence_and_what_differs_counts(
    tmp_path: Path, probe: Path, lesson: torch.Tensor
) -> None:
    nodes = class_of(lesson, 1.0, 0.9, 1.1, 0.0, -1.0)  # the fourth teaches nothing, the last harms
    fed = federation(tmp_path, *nodes, rounds=1, policy={"probe": str(probe), "quality_floor": 3.0})
    fed.run()
    assert fed.counted(1) == ["east", "north", "south", "west"]
    (refused,) = fed.events("refused")
    assert (refused["node"], refused["reason"]) == ("zorn", "quality_floor")
    assert "the floor is -0.0" in refused["found"]
    assert refused["found"] in describe(refused, 1)
    found = {node: row["measured"]["score"] for node, row in rows(fed, 1).items()}
    assert found["east"] > 10 * abs(found["west"])
    facts = fed.sealed(1).facts
    assert {row["weight"] for row in facts["contributions"]} == {0.25}  # equal: the default
    assert facts["scores"] == [found[name] for name in sorted(found)]


def test_weights_by_evidence_are_recorded_with_their_reasons(
    tmp_path: Path, probe: Path, lesson: torch.Tensor
) -> None:
    policy = {"probe": str(probe), "quality_floor": 3.0, "weights": "evidence"}
    fed = federation(tmp_path, *class_of(lesson, 1.0, 1.0, 0.0), rounds=1, policy=policy)
    fed.run()
    members = fed.sealed(1).facts["members"]
    assert members["south"]["reduced"] == ["floor"]
    assert members["south"]["weight"] == pytest.approx(members["east"]["weight"] / 2, rel=0.1)
    (sealed,) = fed.events("round_sealed")
    assert sealed["reduced"] == {"south": ["floor"]}
    assert "reduced: south (floor)" in describe(sealed, 1)


def test_few_members_are_held_against_the_scores_of_earlier_rounds(
    tmp_path: Path, probe: Path, lesson: torch.Tensor
) -> None:
    """Two members have no spread of their own; after two rounds, the federation has a history."""
    east, north = class_of(lesson, 0.1, 0.1)
    honest = north.answer

    def turns_bad(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        if plan.round == 3:
            bad = teaching("north", lesson, -1.0)
            bad.id = north.id
            return [(0.5, bad.reply(plan, base))]
        return honest(plan, base)

    north.answer = turns_bad
    fed = federation(
        tmp_path,
        east,
        north,
        rounds=3,
        min_members=1,
        policy={"probe": str(probe), "quality_floor": 3.0},
    )
    fed.run()
    assert [fed.counted(number) for number in (1, 2, 3)] == [["east", "north"]] * 2 + [["east"]]
    assert len(fed.sealed(2).facts["scores"]) == 4
    assert len(fed.sealed(3).facts["scores"]) == 5  # what was refused is no yardstick


def test_a_round_whose_members_mostly_harm_is_void(
    tmp_path: Path, probe: Path, lesson: torch.Tensor
) -> None:
    nodes = class_of(lesson, 1.0, 1.1, 0.9, -1.0, -1.1)
    fed = federation(
        tmp_path,
        *nodes,
        rounds=1,
        min_members=4,
        attempts=2,
        policy={"probe": str(probe), "quality_floor": 3.0},
    )
    with pytest.raises(RoundError, match="3 of 4 members contributed"):
        fed.run()
    assert fed.home.sealed_rounds() == [0]


@pytest.mark.parametrize("event", ["refused", "round_sealed"])
def test_a_killed_aggregator_takes_scores_from_the_record(
    event: str,
    tmp_path: Path,
    probe: Path,
    lesson: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = class_of(lesson, 1.0, 0.9, 1.1, 0.2, -1.0)
    policy = {"probe": str(probe), "quality_floor": 3.0, "weights": "evidence", "cap": 0.3}
    undisturbed = federation(tmp_path / "a", *nodes, rounds=1, policy=policy)
    undisturbed.run()
    fed = federation(tmp_path / "b", *nodes, rounds=1, policy=policy)
    with monkeypatch.context() as patch:
        kill_at(patch, event, 1)
        with pytest.raises(Killed):
            fed.run()
    asked = len(fed.world.sent)
    with monkeypatch.context() as patch:
        patch.setattr(ProbeLoss, "score", lambda *_: pytest.fail("measured again"))
        fed.run()
    assert fed.digest() == undisturbed.digest()
    assert rows(fed, 1) == rows(undisturbed, 1)
    again = [message for _, _, message in fed.world.sent[asked:]]
    assert not [message for message in again if isinstance(message, RoundPlan)]


def test_how_far_frames_turn_is_on_record(tmp_path: Path) -> None:
    fed = federation(tmp_path, Node("north"), Node("south"), rounds=1)
    fed.run()
    measured = [row["measured"] for row in rows(fed, 1).values()]
    assert all(0 < one["frame_rotation"] < 90 for one in measured)
    turned = fed.sealed(1).facts["frame_rotation"]
    assert 0 < turned < max(one["frame_rotation"] for one in measured)
    assert fed.events("round_sealed")[0]["frame_rotation"] == turned
    blind = federation(
        tmp_path / "b", Node("north"), Node("south"), rounds=1, policy={"collapse_gate": False}
    )
    blind.run()
    assert blind.sealed(1).facts["frame_rotation"] is None


# ---------------------------------------------------------------- unequal steps


def test_a_slow_nodes_steps_are_normalised_and_on_record(tmp_path: Path) -> None:
    north, south = Node("north"), Node("south")
    south.answer = lambda plan, base: [(0.5, south.reply(plan, base, local_steps=1))]
    fed = federation(tmp_path, north, south, rounds=1)
    fed.run()
    recorded = rows(fed, 1)
    assert {node: row["local_steps"] for node, row in recorded.items()} == {"north": 3, "south": 1}
    assert {node: row["step_factor"] for node, row in recorded.items()} == {
        "north": pytest.approx(1 / 3),
        "south": 1.0,
    }
    base = fed.sealed(0).vector
    by_id = sorted([north, south], key=lambda node: node.id)
    merged = Merger().merge(
        InMemory([node.delta(1, base).values for node in by_id]),
        [Counted(node.name, 3 if node is north else 1) for node in by_id],
        {},
    )
    assert torch.equal(fed.sealed(1).vector.values, base.values + merged.delta)
    assert fed.sealed(1).facts["members"]["north"]["reduced"][0] == "normalised"


def test_equal_steps_leave_no_trace_in_the_consensus(tmp_path: Path) -> None:
    nodes = Node("north"), Node("south")
    plain = federation(tmp_path / "a", *nodes)
    plain.run()
    for node in nodes:
        node.answer = lambda plan, base, own=node: [
            (0.5, own.reply(plan, base, local_steps=2, samples=8))
        ]
    fewer = federation(tmp_path / "b", *nodes)
    fewer.run()
    assert fewer.digest() == plain.digest()


# ---------------------------------------------------------------- fragments


def test_a_round_moves_its_fragment_alone(tmp_path: Path) -> None:
    streaming = {**NESTEROV, "fragments": 2}
    fed = federation(tmp_path, Node("north"), Node("south"), rounds=4, outer=streaming)
    fed.run()
    schema = fed.sealed(0).vector.schema
    for number in (1, 2, 3, 4):
        before, after = fed.sealed(number - 1).vector, fed.sealed(number).vector
        due = fragment_of_round(schema, 2, number)
        for part in fragments_of(schema, 2):
            assert (part.of(before).digest != part.of(after).digest) == (part.index == due.index)
        assert fed.sealed(number).facts["fragment"] == due.index
        assert sum(row["bytes"] for row in rows(fed, number).values()) == 2 * 4 * due.schema.size
    state = fed.sealed(4).extra["outer"]
    assert {name: len(tensor) for name, tensor in state.items()} == {
        f"{part.index}.velocity": part.schema.size for part in fragments_of(schema, 2)
    }
    plans = {m.round: m for _, _, m in fed.world.sent if isinstance(m, RoundPlan)}
    assert {(plan.fragments, plan.alpha) for plan in plans.values()} == {(2, 1.0)}


@pytest.mark.parametrize("codec", ["bf16", "topk"])
def test_nodes_are_told_the_fragment_that_moved_and_no_more(codec: str, tmp_path: Path) -> None:
    north, south = Node("north"), Node("south")
    outer = {**NESTEROV, "fragments": 2}
    fed = federation(tmp_path, north, south, rounds=5, outer=outer, broadcast=codec)
    fed.run()
    schema = fed.sealed(0).vector.schema
    for number in (1, 2, 3, 4):
        due = fragment_of_round(schema, 2, number)
        told = fed.sealed(number).facts["broadcast"]["bytes"]
        _, most = codec_named(codec).bounds(due.schema.size)
        assert told <= most
        owed = fed.sealed(number).extra["owed"]["residual"]
        other = fragment_of_round(schema, 2, number + 1)
        assert bool(other.take(owed).any()) == (number > 1)
    for node in (north, south):  # who followed the steps from the first base has the last one
        assert node.base is not None
        assert node.base.digest == fed.sealed(4).vector.digest


def test_a_delta_of_another_fragment_is_refused(tmp_path: Path) -> None:
    north, south = Node("north"), Node("south")

    def other(plan: RoundPlan, base: ParameterVector) -> list[tuple[float, Reply]]:
        late = fragment_of_round(base.schema, 2, plan.round + 1)
        delta = late.of(south.delta(plan.round, base))
        honest = south.reply(plan, base, delta_digest=delta.digest)
        arrays = {
            name: honest.arrays[name]._replace(data=data, shape=(len(data) // 4,))
            for name, data in delta.segments().items()
        }
        return [(0.5, dataclasses.replace(honest, arrays=arrays))]

    south.answer = other
    fed = federation(tmp_path, north, south, rounds=1, min_members=1, outer={"fragments": 2})
    fed.run()
    assert fed.counted(1) == ["north"]
    assert fed.events("refused")[0]["reason"] == "vector.shape"


@pytest.mark.parametrize("rule", ["mean", "centered_clipping"])
def test_a_killed_aggregator_keeps_every_fragments_state(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Node("north"), Node("south")
    options: dict[str, Any] = {
        "rounds": 4,
        "outer": {**NESTEROV, "fragments": 2},
        "aggregation": {"rule": rule},
    }
    undisturbed = federation(tmp_path / "a", *nodes, **options)
    undisturbed.run()
    fed = federation(tmp_path / "b", *nodes, **options)
    for number in (2, 3):
        with monkeypatch.context() as patch:
            kill_at(patch, "contribution", number)
            with pytest.raises(Killed):
                fed.run()
    fed.run()
    assert fed.digest() == undisturbed.digest()

"""Rules, caps and outer state in real rounds: what is recorded, what survives a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.server.aggregation import InMemory
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.deltas import GroupedDeltas, RoundDeltas
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.merge import Merger
from gobelin.server.outer import OuterState, make_outer
from gobelin.server.progress import describe
from gobelin.server.rounds import RoundEngine
from gobelin.server.rules import make_rule
from gobelin.server.status import print_status
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.errors import ConfigError, RoundError
from gobelin.shared.seeds import generator_of
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.answers import contribution, signed, wired
from tests.keys import entry, signing_key
from tests.server.counting import counted
from tests.server.world import Killed, kill_at

NODES = {"north": "north", "south-1": "south", "south-2": "south", "west": "west"}
FIRST = 500  # number of the first one's keys


class Nodes:
    """A courier whose nodes answer at once, each with what its name and the round give."""

    def __init__(self, home: AggregatorHome, silent: Iterable[str] = ()) -> None:
        self.entries = {node.id: node for node in home.roster().nodes}
        self.silent = set(silent)
        self.waiting: list[Reply] = []
        self.now = 0.0
        self.seen: set[str] = set()  # files that lay under collecting/ during the rounds
        self.home = home

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def nodes(self) -> list[NodeState]:
        return [NodeState(node, True, "monday") for node in self.entries]

    def send(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            node, message = parcel.node, parcel.message
            name = self.entries[node].name
            if isinstance(message, Farewell):
                self.waiting.append(Reply(node))
            elif name not in self.silent:
                assert parcel.enclosure is not None
                assert parcel.enclosure.base is not None
                self.waiting.append(reply(node, name, message, parcel.enclosure.base))

    def replies(self) -> Iterable[Reply]:
        ready, self.waiting = self.waiting, []
        for item in reversed(ready):
            yield item
            self.seen |= {path.name for path in self.home.collecting.glob("*")}


def delta_of(name: str, number: int, base: ParameterVector) -> ParameterVector:
    generator = generator_of(3, name, number)
    return ParameterVector(base.schema, 0.01 * torch.randn(base.schema.size, generator=generator))


def reply(node: str, name: str, plan: RoundPlan, base: ParameterVector) -> Reply:
    delta = delta_of(name, plan.round, base)
    header = contribution(plan, delta.digest)
    key = signing_key(FIRST + list(NODES).index(name))
    envelope = signed(header, key, NODES[name], node)
    return Reply(node, header.to_bytes(), wired(delta.segments()), envelope=envelope)


def home_of(folder: Path, rounds: int = 3, **charter: Any) -> AggregatorHome:
    settings = {"rounds": rounds, "local_steps": 2, "min_members": 2, "deadline_s": 5.0}
    settings["attempts"] = 2
    found(folder, Charter("fed", "toy", "127.0.0.1:9092", 1, rounds=settings, **charter))
    home = AggregatorHome(folder)
    for number, (name, member) in enumerate(NODES.items(), start=FIRST):
        home.write_roster(home.roster().admit(entry(member, name, number)))
    return home


def run(home: AggregatorHome, silent: Iterable[str] = ()) -> Nodes:
    nodes = Nodes(home, silent)
    RoundEngine(home, nodes, nodes.clock, nodes.sleep).run()
    return nodes


def sealed(home: AggregatorHome, number: int) -> Checkpoint:
    return read_checkpoint(home.round_folder(number))


RULES = ["mean", "trimmed_mean", "median", "geometric_median", "centered_clipping", "clipped_mean"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("outer", "cap"), [("sgd", 1.0), ("adam", 0.3)])
def test_a_round_is_the_rule_then_the_outer_step(
    rule: str, outer: str, cap: float, tmp_path: Path
) -> None:
    home = home_of(
        tmp_path / "home", outer={"kind": outer}, aggregation={"rule": rule}, policy={"cap": cap}
    )
    run(home)
    base = sealed(home, 0).vector
    step, merger = make_outer(outer), Merger(make_rule(rule), cap)
    state: OuterState = {}
    memory: OuterState = {}
    for number in (1, 2, 3):
        deltas = [delta_of(name, number, base).values for name in NODES]
        merged = merger.merge(InMemory(deltas), counted(NODES.values()), memory)
        values, state = step.step(base.values, merged.delta, state)
        base, memory = ParameterVector(base.schema, values), merged.state
        assert sealed(home, number).vector.digest == base.digest


@pytest.mark.parametrize("options", [("yogi", "centered_clipping"), ("adam", "median")])
def test_a_kill_in_any_round_loses_neither_momentum_nor_the_last_aggregate(
    options: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charter: dict[str, Any] = {
        "outer": {"kind": options[0]},
        "aggregation": {"rule": options[1]},
        "policy": {"cap": 0.4},
    }
    undisturbed = home_of(tmp_path / "a", **charter)
    run(undisturbed)
    home = home_of(tmp_path / "b", **charter)
    for number in (1, 2, 3):
        with monkeypatch.context() as patch:
            kill_at(patch, "contribution", number)
            patch.setattr(GroupedDeltas, "remove", lambda self: None)
            with pytest.raises(Killed):
                run(home)
        assert list(home.collecting.iterdir())  # what a killed aggregator leaves
    run(home)
    for number in (1, 2, 3):
        found, expected = sealed(home, number), sealed(undisturbed, number)
        assert found.vector.digest == expected.vector.digest
        assert found.facts["members"] == expected.facts["members"]
    assert not home.collecting.exists()
    assert not home.journal.exists()


def test_deltas_wait_on_disk_and_are_gone_when_the_round_is(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", rounds=1)
    assert run(home).seen == {f"{node}-00001.f32" for node in home.roster().by_id()}
    assert not home.collecting.exists()


def test_a_void_round_leaves_no_deltas(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", rounds=1)
    with pytest.raises(RoundError):
        run(home, silent=["north", "west"])
    assert not home.collecting.exists()
    assert home.sealed_rounds() == [0]


def test_deltas_come_back_in_the_order_of_their_names(tmp_path: Path) -> None:
    schema = ParameterSchema.of_shapes({"w": (5,)})
    deltas = RoundDeltas(tmp_path / "collecting", schema.size)
    values = {name: torch.arange(5.0) + ord(name) for name in "cab"}
    for name, row in values.items():
        deltas.add(name, ParameterVector(schema, row))
    assert (deltas.names, len(deltas), deltas.size) == (["a", "b", "c"], 3, 5)
    for index, name in enumerate("abc"):
        assert torch.equal(deltas.piece(index, 1, 4), values[name][1:4])
    deltas.remove()
    assert not (tmp_path / "collecting").exists()


def test_what_moved_the_model_is_on_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_of(tmp_path / "home", rounds=2)
    run(home, silent=["south-2"])
    facts = sealed(home, 2).facts
    assert {row["node"]: row["weight"] for row in facts["contributions"]} == pytest.approx(
        {"north": 1 / 3, "south-1": 1 / 3, "west": 1 / 3}
    )
    assert sum(row["influence"] for row in facts["members"].values()) == pytest.approx(1)
    first = sealed(home, 1).facts["members"]["south"]["influence"]
    south = facts["members"]["south"]
    assert south["influence_total"] == pytest.approx(first + south["influence"])
    event = [row for row in home.events()[0] if row["event"] == "round_sealed"][-1]
    for figure in ("cosine", "sign_all", "sign_most", "retained_norm", "residual"):
        assert event[figure] == facts[figure]
    assert event["influence"]["south"] == south["influence"]
    print_status(home, as_json=True)
    status = json.loads(capsys.readouterr().out)
    told = status["members"]["south"]
    assert told["influence"] == south["influence"]
    assert told["influence_total"] == south["influence_total"]
    print_status(home, as_json=False)
    assert "33%" in capsys.readouterr().out


def test_a_discarded_minority_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crowd(name: str, number: int, base: ParameterVector) -> ParameterVector:
        values = torch.zeros(base.schema.size)
        half = base.schema.size // 2
        values[:half] = 0.01 if name != "west" else 0.0
        values[half:] = 0.01 if name == "west" else 0.0
        return ParameterVector(base.schema, values)

    monkeypatch.setattr(sys.modules[__name__], "delta_of", crowd)
    home = home_of(tmp_path / "home", rounds=1, aggregation={"rule": "median"})
    run(home)
    (told,) = [row for row in home.events()[0] if row["event"] == "minority_loss"]
    assert (told["rule"], told["members"]) == ("median", {"west": 1.0})


def test_a_warning_names_the_rule_and_the_members() -> None:
    event = {"event": "minority_loss", "round": 2, "rule": "median", "members": {"west": 0.92}}
    line = "round 2/9: warning: median discarded most of what these taught: west (92%)"
    assert describe(event, 9) == line


@pytest.mark.parametrize(
    "charter",
    [
        {"aggregation": {"rule": "krum"}},
        {"aggregation": {"rule": "medain"}},
        {"aggregation": {"trim": 0.5}},
        {"aggregation": {"radius": 0.0}},
        {"policy": {"cap": 0.0}},
        {"policy": {"cap": 1.5}},
        {"outer": {"kind": "adagrad"}},
        {"outer": {"kind": "adam", "tau": 0.0}},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(charter: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        home_of(tmp_path / "home", **charter)

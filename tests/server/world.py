"""A federation in virtual time: nodes whose answers are functions, a courier, and a clock."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gobelin.protocols.bundle import WireArray
from gobelin.protocols.envelope import SignedEnvelope
from gobelin.protocols.messages import (
    BYTES,
    ENCODING_MOMENTS,
    NOT_SPOOLED,
    Contribution,
    Farewell,
    Notice,
    RoundPlan,
)
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome, RetentionSettings
from gobelin.server.rounds import RoundEngine
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.fragments import fragment_of_round
from gobelin.shared.objective import Moments
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.recipe import Recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.settings import write_settings
from gobelin.shared.step import follow
from gobelin.shared.vector import ParameterVector
from tests.answers import contribution, signed, wired
from tests.keys import entry, signing_key

DEADLINE = 60.0
PATIENCE = 600.0  # wait_for_members_s
SGD = {"kind": "sgd", "lr": 1.0}
NESTEROV = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}

Answer = Callable[[RoundPlan, ParameterVector], list[tuple[float, Reply]]]


class Killed(BaseException):
    """Stands for kill −9."""


def kill_at(patch: pytest.MonkeyPatch, event: str, number: int) -> None:
    """Die before the event log hears of `event` in round `number`."""
    record = AggregatorHome.record

    def dying(home: AggregatorHome, facts: Mapping[str, Any]) -> None:
        if (facts["event"], facts.get("round")) == (event, number):
            raise Killed
        record(home, facts)

    patch.setattr(AggregatorHome, "record", dying)


class Node:
    """A contributor whose answer to a plan is a function, with delays in seconds."""

    numbers = itertools.count(77)

    def __init__(self, name: str, member: str = "", answer: Answer | None = None) -> None:
        self.number = next(self.numbers)
        self.entry = entry(member or name, name, self.number)
        self.key = signing_key(self.number)
        self.envelopes: dict[str, SignedEnvelope] = {}
        self.id = self.entry.id
        self.name = name
        self.answer = answer or (lambda plan, base: [(0.5, self.reply(plan, base))])
        self.declines = False  # to send moments
        self.base: ParameterVector | None = None  # the last it was sent, whole or as steps
        self.online = True
        self.activated_at = "monday"
        self.spool: dict[str, tuple[float, Reply]] = {}  # plan → when finished, and what

    def base_of(self, parcel: Parcel) -> ParameterVector | None:
        """The base that a parcel leads to, kept; None when its steps cannot be followed."""
        assert parcel.enclosure is not None
        whole, steps = parcel.enclosure.base, parcel.enclosure.steps
        if whole is None:
            plan = parcel.message
            assert isinstance(plan, RoundPlan)
            starts = [step.header.start_digest for step in steps]
            if self.base is not None and self.base.digest == plan.base_digest:
                return self.base
            if self.base is None or self.base.digest not in starts:
                return None
            steps = steps[starts.index(self.base.digest) :]
            whole = follow(self.base, steps, plan.fragments)
        self.base = whole
        return whole

    def delta(self, number: int, schema_of: ParameterVector) -> ParameterVector:
        """What this node learns in a round, whoever asks and how often."""
        generator = generator_of(0, self.name, number)
        values = torch.randn(schema_of.schema.size, generator=generator) * 0.01
        return ParameterVector(schema_of.schema, values)

    def moments(self, plan: RoundPlan) -> bytes:
        """What this node says of its data in a round, if it is asked and does not decline."""
        if not plan.cross_node or self.declines:
            return b""
        dim = Recipe.model_validate_json(plan.recipe).projector.out
        z = torch.randn(20, dim, generator=generator_of(1, self.name, plan.round))
        return Moments.of(z).to_bytes()

    def reply(self, plan: RoundPlan, base: ParameterVector, **changes: Any) -> Reply:
        """An honest reply; `changes` spoil its header."""
        fragment = fragment_of_round(base.schema, plan.fragments, plan.round)
        delta = fragment.of(self.delta(plan.round, base))
        moments = self.moments(plan)
        header = contribution(
            plan,
            delta.digest,
            samples=16,
            metrics={"loss": 1.0},
            moments_digest=digest_of(moments),
        )
        header = dataclasses.replace(header, **changes)
        beside = WireArray(BYTES, (len(moments),), ENCODING_MOMENTS, moments) if moments else None
        envelope = self.sign(header)
        return Reply(
            self.id,
            header.to_bytes(),
            wired(delta.segments()),
            moments=beside,
            envelope=envelope,
        )

    def sign(self, made: Contribution) -> SignedEnvelope:
        """An envelope of this node's, made once."""
        if made.digest not in self.envelopes:
            self.envelopes[made.digest] = signed(made, self.key, self.entry.member, self.id)
        return self.envelopes[made.digest]


class World:
    """A courier and a clock: plans reach nodes at once, replies arrive when they are due."""

    def __init__(self, *nodes: Node) -> None:
        self.all = {node.id: node for node in nodes}
        self.now = 0.0
        self.sent: list[tuple[float, str, RoundPlan | Farewell | Notice]] = []
        self.parcels: list[Parcel] = []
        self.recalled: list[tuple[str, RoundPlan]] = []
        self.happenings: list[tuple[float, Callable[[], None]]] = []  # at a time, once
        self._due: list[tuple[float, int, Reply, str]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        assert self.now < 1e6, "waits without bound"

    def nodes(self) -> list[NodeState]:
        for item in [item for item in self.happenings if item[0] <= self.now]:
            self.happenings.remove(item)
            item[1]()
        return [NodeState(n.id, n.online, n.activated_at) for n in self.all.values()]

    def send(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            node, message = self.all[parcel.node], parcel.message
            assert node.online
            if isinstance(message, RoundPlan) and parcel.enclosure is None:
                self.recall(node, message)
                continue
            self.sent.append((self.now, node.name, message))
            self.parcels.append(parcel)
            if isinstance(message, Farewell | Notice):
                self.arrive(0.1, Reply(parcel.node, plan=message.digest))
                continue
            base = node.base_of(parcel)
            if base is None:
                self.arrive(0.1, Reply(parcel.node, error="gobelin:contribution.base_missing"))
                continue
            assert base.digest == message.base_digest
            enclosed = parcel.enclosure and parcel.enclosure.moments
            assert (enclosed.digest if enclosed else "") == message.moments_digest
            for delay, reply in node.answer(message, base):
                node.spool[message.digest] = (self.now + delay, reply)
                self.arrive(delay, reply)

    def recall(self, node: Node, plan: RoundPlan) -> None:
        self.recalled.append((node.name, plan))
        finished, reply = node.spool.get(plan.digest, (1e9, Reply(node.id)))
        nothing = Reply(node.id, error=NOT_SPOOLED, plan=plan.digest)
        self.arrive(0.1, reply if finished <= self.now else nothing)

    def arrive(self, delay: float, reply: Reply) -> None:
        since = self.all[reply.node].activated_at
        self._due.append((self.now + delay, next(self._order), reply, since))

    def replies(self) -> Iterable[Reply]:
        due = sorted(item for item in self._due if item[0] <= self.now)
        for item in due:
            self._due.remove(item)
            node = self.all[item[2].node]
            if node.online and node.activated_at == item[3]:  # else it was lost with its session
                yield item[2]

    def offers(self, name: str) -> list[int]:
        """Rounds that were offered to a node, in order."""
        return [m.round for _, n, m in self.sent if n == name and isinstance(m, RoundPlan)]

    def recalls(self, name: str) -> list[int]:
        """Rounds a node was asked for from its spool alone, in order."""
        return [plan.round for n, plan in self.recalled if n == name]


class Federation:
    """A founded home with its roster, and engines that run on it."""

    def __init__(self, folder: Path, world: World, roster: Iterable[Node], **rounds: Any) -> None:
        retention = rounds.pop("retention", None)
        tables = ("outer", "aggregation", "policy", "releases")
        parts = {"outer": SGD} | {name: rounds.pop(name) for name in tables if name in rounds}
        values = {
            "rounds": 2,
            "local_steps": 3,
            "min_members": 2,
            "deadline_s": DEADLINE,
            "wait_for_members_s": PATIENCE,
            **rounds,
        }
        found(folder, Charter("fed", "toy", "127.0.0.1:0", 1, rounds=values, **parts))
        self.home = AggregatorHome(folder)
        if retention is not None:
            settings = self.home.settings()
            kept = RetentionSettings.model_validate(retention)
            write_settings(self.home.settings_file, settings.model_copy(update={"retention": kept}))
        self.world = world
        for node in roster:
            self.admit(node)

    def moved(self, folder: Path) -> Federation:
        """The same federation on a copy of its folder, in a world of its own."""
        other = object.__new__(Federation)
        other.home, other.world = AggregatorHome(folder / "home"), World(*self.world.all.values())
        return other

    def admit(self, node: Node) -> None:
        self.home.write_roster(self.home.roster().admit(node.entry))

    def run(self) -> None:
        RoundEngine(self.home, self.world, self.world.clock, self.world.sleep).run()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.home.events()[0] if event["event"] == kind]

    def sealed(self, number: int) -> Checkpoint:
        return read_checkpoint(self.home.round_folder(number))

    def counted(self, number: int) -> list[str]:
        """Names of the nodes a sealed round counted."""
        return [row["node"] for row in self.sealed(number).facts["contributions"]]

    def digest(self) -> str:
        return self.home.latest()[1].vector.digest


def federation(folder: Path, *nodes: Node, **rounds: Any) -> Federation:
    return Federation(folder / "home", World(*nodes), nodes, **rounds)


def mean_by_hand(
    fed: Federation, number: int, weights: Mapping[Node, float]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Base plus the weighted mean of the deltas, in fp64."""
    base = fed.sealed(number - 1).vector
    total = sum(w * n.delta(number, base).values.double().numpy() for n, w in weights.items())
    return base.values.double().numpy() + total / sum(weights.values())

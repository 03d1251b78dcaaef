"""Rounds leave nothing in memory: the ServerApp's and a node's own code, in this process."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from gobelin.client import link
from gobelin.client.home import NodeHome
from gobelin.server import ledger
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.engine import GridCourier
from gobelin.server.home import AggregatorHome
from gobelin.server.records import enclosed, reply_of
from gobelin.server.rounds import RoundEngine
from tests.faults.gauntlet import found

WARM, ROUNDS = 5, 14
ONLINE = "2026-01-01T00:00:00+00:00"


class Nobody:
    """Stands where Flower's grid would; nothing is sent over it."""


class Direct(GridCourier):
    """Hands what the engine sends to the node's ClientApp, as Flower's messages, one by one."""

    def __init__(self, node: NodeHome) -> None:
        super().__init__(Nobody())
        self._home, self._node = str(node.folder), node.id
        self._flower_ids = {self._node: 1}
        self._sent: list[tuple[str, Message]] = []

    def nodes(self) -> list[NodeState]:
        """The one there is."""
        return [NodeState(self._node, True, ONLINE)]

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Keep what will be asked for."""
        for _, group in itertools.groupby(parcels, lambda parcel: id(parcel.enclosure)):
            alike = list(group)
            beside = enclosed(alike[0].enclosure)
            self._sent += [(one.message.digest, self._message(one, beside)) for one in alike]

    def replies(self) -> Iterator[Reply]:
        """What the node answers."""
        while self._sent:
            digest, message = self._sent.pop(0)
            config = {link.HOME_KEY: self._home}
            reply = link.app(message, Context(1, 1, config, RecordDict(), {}))
            assert link.take_failure(self._home) is None
            yield reply_of(self._node, digest, reply)


def objects() -> Counter[str]:
    """How many of each type the collector knows, but for its own doings."""
    gc.collect()
    kinds = map(type, gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


def test_rounds_leave_no_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RECENT", 2)
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1, raising=False)
    net = found(tmp_path, ROUNDS, ("north",), release_every=4, min_members=1)
    node = NodeHome(net.node_home("north"))
    seen: dict[int, Counter[str]] = {}
    record = AggregatorHome.record

    def watched(home: AggregatorHome, event: Mapping[str, Any]) -> None:
        record(home, event)
        if event["event"] == "round_sealed" and event["round"] in (WARM, ROUNDS - 1):
            seen[event["round"]] = objects()

    monkeypatch.setattr(AggregatorHome, "record", watched)
    try:
        RoundEngine(AggregatorHome(net.aggregator_home), Direct(node)).run()
    finally:
        link._contributor.cache_clear()
    more = {name: n - seen[WARM][name] for name, n in seen[ROUNDS - 1].items()}
    assert {name: n for name, n in more.items() if n >= ROUNDS - 1 - WARM} == {}

"""The world around an aggregator in virtual time: nodes, the network, the clock, and bad luck."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gobelin.protocols.ledger import Head
from gobelin.protocols.messages import Farewell, RoundPlan
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.roster import Roster
from tests.simulator.disk import Disk
from tests.simulator.nodes import Mail, Node, entry_of

OVERSLEEP_S = 2.5  # how long nothing may happen before the engine looks again
MISCHIEF = ("error", "garbage", "nan", "digest", "steps", "forged", "replay")


@dataclass(frozen=True)
class Scenario:
    """One history's cast and weather, all drawn from its seed."""

    seed: int
    settings: dict[str, Any]  # federation.toml
    owners: tuple[str, ...]  # the member of each node
    paces: tuple[float, ...]  # seconds of training of each node
    rates: dict[str, float]  # of each fault, at every occasion
    storm_s: float  # then faults end
    gentle: bool  # nothing in it can keep a node from being counted


class World:
    """A courier and a clock. Everything that happens is an action on the heap."""

    def __init__(self, scenario: Scenario, disk: Disk, faults: Counter[str]) -> None:
        self.scenario = scenario
        self.disk = disk
        self.faults = faults
        self.chance = random.Random(scenario.seed)
        self.now = 0.0
        self.run = 0
        self.on_offer: Callable[[str, RoundPlan, bool], None] = lambda *_: None
        self.on_sleep: Callable[[], None] = lambda: None
        self.on_head: Callable[[Head], None] = lambda _: None
        self._offset = 0.0  # of the aggregator's clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._inbox: list[Reply] = []
        self.nodes_by_id: dict[str, Node] = {}
        for number, (owner, pace) in enumerate(zip(scenario.owners, scenario.paces, strict=True)):
            entry = entry_of(owner, f"n{number}", f"{scenario.seed} {number}")
            self.nodes_by_id[entry.id] = Node(entry, self, pace)
        self.roster = Roster(tuple(node.entry for node in self.nodes_by_id.values()))
        disk.strikes = self.strikes
        self._brew()

    # ------------------------------------------------------------ time

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), action))

    def pass_time(self, until: float) -> None:
        """Everything that is due happens, in order."""
        while self._heap and self._heap[0][0] <= until:
            at, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            action()
        self.now = max(self.now, until)

    def clock(self) -> float:
        """The aggregator's, which says nothing beyond one process."""
        return self.now + self._offset

    def sleep(self, seconds: float) -> None:
        """Until something happens, and not much longer than asked for."""
        due = self._heap[0][0] if self._heap else math.inf
        self.pass_time(max(self.now + seconds, min(due, self.now + OVERSLEEP_S)))
        if self.strikes("clock jump"):
            self._offset += self.chance.uniform(0, 30)
        self.on_sleep()
        if self.strikes("aggregator killed"):
            self.disk.die()

    # ------------------------------------------------------------ bad luck

    @property
    def stormy(self) -> bool:
        """Whether faults happen still."""
        return self.now < self.scenario.storm_s

    def strikes(self, fault: str) -> bool:
        """Whether this fault happens here and now."""
        rate = self.scenario.rates.get(fault, 0.0)
        happens = rate > 0 and self.stormy and self.chance.random() < rate
        self.faults[fault] += happens
        return happens

    def mischief(self, node: Node) -> str:
        """How a node spoils its next reply, or the empty string."""
        how = self.chance.choice(MISCHIEF) if self.strikes("spoiled reply") else ""
        return "" if how == "replay" and not node.spool else how

    def _brew(self) -> None:
        """Events that come by themselves, each followed by the next."""
        for fault, event in (
            ("node killed", self._kill_node),
            ("node cut off", self._cut_off),
            ("disk full", self._fill_disk),
            ("roster change", self._change_roster),
        ):
            if self.scenario.rates.get(fault):
                self._come(fault, event)

    def _come(self, fault: str, event: Callable[[], None]) -> None:
        pause = self.chance.expovariate(self.scenario.rates[fault])

        def happen() -> None:
            if self.stormy:
                self.faults[fault] += 1
                event()
                self._come(fault, event)

        self.after(pause, happen)

    def _kill_node(self) -> None:
        node = self.chance.choice(list(self.nodes_by_id.values()))
        if node.online:
            node.crash()
            self.after(self.chance.uniform(0.2, 20), node.back)

    def _cut_off(self) -> None:
        """Offline without dying: its session goes on, what was on its way is lost."""
        node = self.chance.choice(list(self.nodes_by_id.values()))
        if node.online:
            node.online = False
            if node.training is not None:
                self._lose(node.training)
            self.after(self.chance.uniform(1, 15), node.in_session(node.back))

    def _fill_disk(self) -> None:
        self.disk.full = True

        def mend() -> None:
            self.disk.full = False

        self.after(self.chance.uniform(0.5, 8), mend)

    def _change_roster(self) -> None:
        """A node leaves if enough members stay; else one that had left comes back, or a new one."""
        on_it = set(self.roster.by_id())
        staying = [node for node in self.roster.nodes if self.chance.random() < 0.7]
        least = max(2, self.scenario.settings["rounds"]["min_members"])
        if len(staying) < len(on_it) and len({node.member for node in staying}) >= least:
            self.roster = Roster(tuple(staying))
            return
        away = [node.entry for node in self.nodes_by_id.values() if node.id not in on_it]
        if not away:
            number = len(self.nodes_by_id)
            entry = entry_of(f"m{number}", f"n{number}", f"{self.scenario.seed} {number}")
            self.nodes_by_id[entry.id] = Node(entry, self, self.chance.uniform(0.5, 6))
            away = [entry]
        self.roster = self.roster.admit(self.chance.choice(away))

    # ------------------------------------------------------------ the courier

    def started(self) -> None:
        """A new aggregator process: nobody waits for what was on its way to the old one."""
        self.run += 1
        self._inbox.clear()
        self._offset = self.chance.uniform(-1e4, 1e4) if self.stormy else 0.0
        if self.strikes("killed while writing"):
            self.disk.fuse = self.chance.randint(1, 150)

    def nodes(self) -> list[NodeState]:
        """All nodes there are, whether on the roster or not."""
        return [node.state for node in self.nodes_by_id.values()]

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Into the mail."""
        for parcel in parcels:
            name, message, recall = parcel.node, parcel.message, parcel.enclosure is None
            if parcel.ledger is not None:
                self.on_head(parcel.ledger.head)
            if isinstance(message, Farewell):
                self._arrive(self.run, Reply(name, plan=message.digest))
                continue
            self.on_offer(name, message, recall)
            mail, node = Mail(self.run, message, recall), self.nodes_by_id[name]
            self._travel(mail, lambda mail=mail, node=node: self._deliver(mail, node), node)

    def _deliver(self, mail: Mail, node: Node) -> None:
        if node.online:
            node.deliver(mail)
        else:
            self._lose(mail, node)

    def reply(self, mail: Mail, reply: Reply) -> None:
        """From a node into the aggregator's inbox."""
        node = self.nodes_by_id[reply.node]
        self._travel(mail, lambda: self._arrive(mail.run, reply), node)

    def _travel(self, mail: Mail, arrive: Callable[[], None], node: Node) -> None:
        """Take time; get lost, noticed or not; come twice."""
        if self.strikes("lost"):
            if self.chance.random() < 0.5:
                self.after(self.chance.uniform(1, 10), lambda: self._lose(mail, node))
            return
        for _ in range(1 + self.strikes("duplicated")):
            slow = self.chance.uniform(1, 30) if self.strikes("delayed") else 0.0
            self.after(slow + self.chance.uniform(0.05, 0.5), arrive)

    def _lose(self, mail: Mail, node: Node | None = None) -> None:
        """The courier finds out that a message is gone."""
        for one in [node] if node else [n for n in self.nodes_by_id.values() if n.training is mail]:
            lost = Reply(one.id, error="flower:5", plan=mail.plan.digest, lost=True)
            self._arrive(mail.run, lost)

    def _arrive(self, run: int, reply: Reply) -> None:
        if run == self.run:
            self._inbox.append(reply)

    def replies(self) -> Iterator[Reply]:
        """What has arrived, in any order."""
        if len(self._inbox) > 1 and self.strikes("reordered"):
            self.chance.shuffle(self._inbox)
        while self._inbox:
            yield self._inbox.pop(0)

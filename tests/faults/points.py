"""Points of a federation at which a process can be killed, and a plan of kills drawn from them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ENGINE = ("supervisor", "superlink", "superexec", "serverapp", "service")  # any other is a node
PHASES = {"append": ("before", "torn", "after"), "write": ("before", "torn", "after")}
MOST = 4  # n-th times of one operation
FOUNDING = CLOSING = 3  # such points in one federation
OUTSIDE = "outside"  # a kill by the clock: n milliseconds after the next round is sealed


@dataclass(frozen=True)
class Point:
    """The n-th time that a process comes by an operation, just before or just after it."""

    process: str
    op: str
    site: str
    n: int
    phase: str

    @classmethod
    def parse(cls, text: str) -> Point:
        """The point of its text form; raises ValueError where that is none."""
        process, op, site, n, phase = text.split(":")
        return cls(process, op, site, int(n), phase)

    def __str__(self) -> str:
        return f"{self.process}:{self.op}:{self.site}:{self.n}:{self.phase}"

    @property
    def kind(self) -> str:
        """The kind of process; all nodes are of one."""
        return self.process if self.process in ENGINE else "node"

    @property
    def distinct(self) -> tuple[str, str, str, int, str]:
        """What makes it another point than others: the same on another node is the same."""
        return (self.kind, self.op, self.site, self.n, self.phase)


@dataclass(frozen=True)
class Life:
    """The operations of one process from its start to its end: (time, op, site), in order."""

    process: str
    operations: Sequence[tuple[float, str, str]]


Key = tuple[str, str, str]  # process, op, site


@dataclass(frozen=True)
class Reachable:
    """Operations by when they happen, each with how often; in order of the first time."""

    founding: Mapping[Key, int]  # at a federation's very first start
    starting: Mapping[Key, int]  # at every start of the process
    running: Mapping[Key, int]  # in every round
    closing: Mapping[Key, int]  # after the last round


def reachable(lives: Iterable[Life], sealed: Sequence[float]) -> Reachable:
    """Sort what `lives` came by, given when the rounds were sealed."""
    founding, starting, running, closing = Counter(), Counter(), Counter(), Counter()
    first_times: dict[Key, float] = {}
    seen = set[str]()
    for life in sorted(lives, key=lambda life: life.operations[0][0]):
        rounds: dict[int, Counter[Key]] = defaultdict(Counter)  # sealed so far → operations
        for time, op, site in life.operations:
            key = (life.process, op, site)
            first_times.setdefault(key, time)
            rounds[sum(at < time for at in sealed)][key] += 1
        opening, last = min(rounds), len(sealed)
        for key in first_times:
            times = [rounds[number][key] for number in range(opening + 1, last)]
            if sum(map(bool, times)) > 1:
                running[key] = max(running[key], *times)
        if opening < last:
            (starting if life.process in seen else founding).update(rounds[opening])
            closing.update(rounds[last])
        seen.add(life.process)
    known = set[Key]()
    for counted in (running, starting, founding, closing):
        for key in known & counted.keys():
            del counted[key]
        known |= counted.keys()

    def in_order(counted: Mapping[Key, int]) -> dict[Key, int]:
        return {key: counted[key] for key in sorted(counted, key=lambda key: first_times[key])}

    return Reachable(in_order(founding), in_order(starting), in_order(running), in_order(closing))


def candidates(counted: Mapping[Key, int]) -> list[list[Point]]:
    """The points of operations that happen so often: a list an operation."""
    return [
        [
            Point(*key, n, phase)
            for n in range(1, min(often, MOST) + 1)
            for phase in phases_of(key[1])
        ]
        for key, often in counted.items()
    ]


def phases_of(op: str) -> tuple[str, ...]:
    """The phases of a kind of operation: a start and an exit have no afterwards."""
    return ("before",) if op in ("start", "exit") else PHASES.get(op, ("before", "after"))


def spread(groups: Iterable[list[Point]], count: int, rng: random.Random) -> list[Point]:
    """`count` distinct points, one of each group in turn, any of its points first."""
    shuffled = [rng.sample(group, len(group)) for group in groups]
    rng.shuffle(shuffled)
    chosen: dict[object, Point] = {}
    for turn in range(max(map(len, shuffled), default=0)):
        for group in shuffled:
            if turn < len(group) and len(chosen) < count:
                chosen.setdefault(group[turn].distinct, group[turn])
    return list(chosen.values())


@dataclass(frozen=True)
class Plan:
    """Points for one federation, in the order in which they are looked out for."""

    points: Sequence[Point]
    closing: int = 0  # so many of them, the last, are behind the last round


class Choice:
    """Distinct points to be reached, spread over processes, operations and times."""

    def __init__(self, found: Reachable, count: int, rng: random.Random) -> None:
        """About `count`: of the rarer times all that there are, up to a fifth of it each."""
        rare = (found.founding, found.starting, found.closing)
        self._founding, self._starting, self._closing = (
            spread(candidates(counted), count // 5, rng) for counted in rare
        )
        left = count - len(self._founding) - len(self._starting) - len(self._closing)
        self._running = spread(candidates(found.running), left, rng)
        self._again = {  # once more, what a federation did not come to
            point: points
            for points in (self._founding, self._starting, self._closing, self._running)
            for point in points
        }
        self._order = {key: place for place, key in enumerate(found.founding)}
        self._rng = rng

    def __len__(self) -> int:
        return sum(map(len, (self._founding, self._starting, self._running, self._closing)))

    def take(self, kills: int) -> Plan:
        """A plan of about `kills` for one federation; a start comes behind another kill."""
        first = [self._founding.pop() for _ in range(min(FOUNDING, len(self._founding)))]
        plan = sorted(first, key=lambda p: self._order[p.process, p.op, p.site])
        while len(plan) < kills and (self._running or self._starting):
            whole = len(self._running) + len(self._starting)
            if self._rng.randrange(whole) < len(self._running):
                plan.append(self._running.pop())
            else:
                plan += self._kill_of(self._starting[-1].process), self._starting.pop()
        last = [self._closing.pop() for _ in range(min(CLOSING, len(self._closing)))]
        return Plan([*plan, *last], len(last))

    def put_back(self, unreached: Iterable[Point]) -> None:
        """Keep for a later federation what one did not come to, if it was the first try."""
        for point in unreached:
            if (points := self._again.pop(point, None)) is not None:
                points.insert(0, point)

    def _kill_of(self, process: str) -> Point:
        """A point of running of a process, or now and then a kill from outside."""
        of_process = [point for point in self._running if point.process == process]
        if not of_process or self._rng.random() < 0.3:
            return Point(process, OUTSIDE, "clock", self._rng.randrange(50, 1500), "after")
        self._running.remove(of_process[-1])
        return of_process[-1]

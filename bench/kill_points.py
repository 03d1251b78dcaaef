"""kill −9 at many distinct points of real federations: what is sealed must not differ by a bit.

An undisturbed federation gives the digest of every round, and another one the operations that its
processes come by. A seeded choice of points, spread over processes, operations and times, is then
reached one after the other in federations of real processes on loopback (tests/faults).
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.measure import write_result
from examples.loopback import Loopback
from tests.faults.gauntlet import (
    HANG_S,
    MEMBERS,
    Gauntlet,
    Outcome,
    Sealed,
    computed_here,
    differ,
    found,
)
from tests.faults.points import OUTSIDE, Choice, Plan, Point, reachable

FOLDER = Path("runs/kill_points")
KILLS = 24  # in one federation, at most
ROUNDS = 30  # of a federation: room for its kills
GOAL = "at least 200 points over all kinds of process, no violation, 0 lost, 0 double"
SPARE = 1.2  # points chosen for each that is wanted: some nobody comes by again
COUNTED = Plan([Point(name, OUTSIDE, "clock", 300, "after") for name in ("supervisor", *MEMBERS)])


class Bench:
    """Federations of one charter, as many at the same time as there are `workers`."""

    def __init__(self, workers: int, rounds: int, hang_s: float) -> None:
        """Found what federations are copied from, each on a port of its own.

        One after the other: a model's first values are drawn from the process's one generator.
        """
        self._rounds = rounds
        self._hang_s = hang_s
        self._numbers = itertools.count(1)
        self._templates: SimpleQueue[Loopback] = SimpleQueue()
        for number in range(1, workers + 1):
            self._templates.put(found((FOLDER / f"template-{number:02d}").absolute(), rounds))
        self.stop = threading.Event()

    def federate(self, plan: Plan, counting: bool = False) -> Outcome:
        """One federation under a plan; its folder stays where something is wrong with it."""
        folder = (FOLDER / f"federation-{next(self._numbers):03d}").absolute()
        template = self._templates.get()
        try:
            gauntlet = Gauntlet(template, folder, plan, counting=counting, hang_s=self._hang_s)
            outcome = gauntlet.run(self.stop)
        finally:
            self._templates.put(template)
        outcome.folder = folder
        return outcome

    def undisturbed(self, pool: ThreadPoolExecutor) -> list[Sealed]:
        """Every round of a federation that nobody disturbs, as computed in this process as well."""
        outcome = pool.submit(self.federate, Plan(())).result()
        wrong = list(outcome.violations)
        if not wrong and outcome.rounds[-1].vector_digest != computed_here(self._rounds):
            wrong.append("it has another digest than the same rounds in one process")
        if wrong:
            raise SystemExit(f"the undisturbed federation is no reference: {wrong}")
        shutil.rmtree(outcome.folder)
        return outcome.rounds


class Tally:
    """What has been reached so far, and what was violated."""

    def __init__(self, reference: Sequence[Sealed]) -> None:
        self._reference = reference
        self.outcomes: list[Outcome] = []
        self.violations: list[dict[str, Any]] = []
        self.reached: dict[object, Point] = {}
        self.lost = self.double = 0

    def add(self, outcome: Outcome) -> None:
        """Count a federation and say how it went."""
        self.outcomes.append(outcome)
        for point in outcome.reached:
            if point.op != OUTSIDE:
                self.reached.setdefault(point.distinct, point)
        found = differ(outcome.rounds, self._reference)
        self.lost, self.double = self.lost + found.lost, self.double + found.double
        wrong = [*outcome.violations, *found.what]
        replay = ",".join(map(str, outcome.reached))
        self.violations += [{"what": what, "replay": replay} for what in wrong]
        if not wrong:
            shutil.rmtree(outcome.folder)
        print(
            f"{len(self.reached)} points; last federation: {len(outcome.reached)} kills in "
            f"{outcome.seconds:.0f} s, longest standstill {outcome.longest_s:.0f} s"
            f"{', ended by themselves: ' if outcome.exits else ''}"
            f"{', '.join(f'{what} ({n}x)' for what, n in outcome.exits.items())}",
            *wrong,
            sep="\n  ",
            flush=True,
        )

    def result(self) -> dict[str, Any]:
        """The figures."""
        kinds = Counter(point.kind for point in self.reached.values())
        ops = Counter(point.op for point in self.reached.values())
        all_kills = [point for outcome in self.outcomes for point in outcome.reached]
        return {
            "points": len(self.reached),
            "violations": len(self.violations),
            "lost": self.lost,
            "double": self.double,
            "violated": self.violations,
            "kills": len(all_kills),
            "kills_from_outside": sum(point.op == OUTSIDE for point in all_kills),
            "of_process": dict(kinds),
            "of_operation": dict(ops),
            "exits": dict(sum((outcome.exits for outcome in self.outcomes), Counter())),
            "federations": len(self.outcomes),
            "rounds": len(self._reference),
            "longest_standstill_s": max(outcome.longest_s for outcome in self.outcomes),
            "point_list": sorted(map(str, self.reached.values())),
        }


def run(
    bench: Bench,
    pool: ThreadPoolExecutor,
    wanted: int,
    seed: int,
    workers: int,
    save: Callable[[Tally], None],
) -> Tally:
    """Reach `wanted` distinct points, or as many as there are; `save` what is known so far."""
    rng = random.Random(seed)
    counting = pool.submit(bench.federate, COUNTED, counting=True)
    tally = Tally(bench.undisturbed(pool))
    counted = counting.result()
    tally.add(counted)
    choice = Choice(reachable(counted.lives, counted.sealed_at), round(wanted * SPARE), rng)
    print(f"{len(choice)} points chosen", flush=True)
    kills = min(KILLS, math.ceil(len(choice) / workers))
    running: set[Future[Outcome]] = set()
    while True:
        while len(choice) and len(running) < workers and len(tally.reached) < wanted:
            running.add(pool.submit(bench.federate, choice.take(kills)))
        if not running:
            return tally
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            tally.add(future.result())
            choice.put_back(future.result().unreached)
            save(tally)


def replay(bench: Bench, pool: ThreadPoolExecutor, specs: str) -> Tally:
    """One federation under the plan that a violation names."""
    tally = Tally(bench.undisturbed(pool))
    tally.add(bench.federate(Plan([Point.parse(spec) for spec in specs.split(",")])))
    return tally


def main() -> None:
    """Run it and write bench/results/kill_points.json, anew after every federation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="federations at a time, a core each"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of a federation")
    parser.add_argument("--hang", type=float, default=HANG_S, help="seconds of standstill allowed")
    parser.add_argument("--replay", metavar="SPECS", help="points, with commas between")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    shutil.rmtree(FOLDER, ignore_errors=True)
    begun = time.monotonic()
    bench = Bench(chosen.workers, chosen.rounds, chosen.hang)

    def save(tally: Tally) -> None:
        told = {"seed": chosen.seed, "workers": chosen.workers, "goal": GOAL}
        write_result("kill_points", {**tally.result(), **told, "seconds": time.monotonic() - begun})

    with ThreadPoolExecutor(chosen.workers) as pool:
        try:
            if chosen.replay:
                tally = replay(bench, pool, chosen.replay)
            else:
                tally = run(bench, pool, chosen.points, chosen.seed, chosen.workers, save)
        finally:
            bench.stop.set()  # whatever still runs ends now
    print(f"{len(tally.reached)} points, {len(tally.violations)} violations")
    sys.exit(bool(tally.violations))


if __name__ == "__main__":
    main()

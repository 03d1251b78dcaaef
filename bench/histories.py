"""How many whole federations live through random faults in virtual time without a broken promise.

Each history founds a federation, runs the real engine, journal, checkpoints and merge with a
courier, a clock and a disk that are not, injects what its seed holds (losses, duplicates, delays,
kills of either side while writing or not, a full disk, jumps of the clock, a changing roster) and
audits every event: nothing counted twice, nothing acknowledged lost, bases that chain, quorums,
caps, and a consensus that is a function of what was counted. `python -m bench.histories --replay
SEED` lives through one again.

Writes bench/results/histories.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

from bench.measure import run_all, write_result
from tests.simulator.audit import Violation
from tests.simulator.history import Told, run_history

MEMORY = Path("/dev/shm")


def live(seed: int) -> Told | str:
    """One history, or what it violates."""
    try:
        return run_history(seed, MEMORY if MEMORY.is_dir() else None)
    except Violation as violation:
        return str(violation)


def main() -> None:
    """Live through histories of successive seeds, or through one of them again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--replay", type=int, help="a seed to live through once, and nothing else")
    options = parser.parse_args()
    if options.replay is not None:
        print(live(options.replay))
        return
    started = time.perf_counter()
    seeds = range(options.first, options.first + options.count)
    found = list(run_all(live, seeds, options.workers, chunk=20).values())
    told = [one for one in found if isinstance(one, Told)]
    broken = [one for one in found if isinstance(one, str)]
    faults: Counter[str] = sum((one.faults for one in told), Counter())
    values = {
        "count": len(found),
        "violations": len(broken),
        "violated": broken[:20],
        "first_seed": options.first,
        "seconds": time.perf_counter() - started,
        "virtual_days": sum(one.virtual_s for one in told) / 86_400,
        "starts_of_the_aggregator": sum(one.starts for one in told),
        "faults": dict(sorted(faults.items())),
        "goal": "at least 10,000 in at most 300 s, no violation",
    }
    print(write_result("histories", values))


if __name__ == "__main__":
    main()

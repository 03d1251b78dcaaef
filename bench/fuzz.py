"""Spoilt inputs for every parser of bytes from elsewhere: how many, and how many ended in a crash.

The targets are those of tests/fuzz. Inputs are functions of their seeds, so that one that crashes
is found again by its number. Writes bench/results/fuzz.json; exits by 1 on a crash.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from bench.measure import run_all, write_result

CHUNK = 2000  # inputs a job


def main() -> None:
    """Fuzz all targets alike."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    jobs = range(options.first, options.first + options.inputs, CHUNK)
    started = time.monotonic()
    found = run_all(chunk, list(jobs), options.workers)
    crashes = [line for lines in found.values() for line in lines]
    values = {
        "inputs": len(jobs) * CHUNK,
        "by_target": by_target(options.first, len(jobs) * CHUNK),
        "first": options.first,
        "crashes": len(crashes),
        "seconds": time.monotonic() - started,
        "goal": "inputs >= 1,000,000 over the project's life, crashes = 0",
    }
    print(write_result("fuzz", values))
    print("\n".join(crashes[:50]))
    sys.exit(1 if crashes else 0)


def by_target(first: int, inputs: int) -> dict[str, int]:
    """How many of the inputs each target was given."""
    from tests.fuzz.targets import targets

    names = [target.name for target in targets()]
    given = Counter(names[seed % len(names)] for seed in range(first, first + inputs))
    return {name: given[name] for name in names}


def chunk(first: int) -> list[str]:
    """The crashes of CHUNK inputs."""
    from tests.fuzz.targets import spoil, targets

    all_of_them, crashes = targets(), []
    for seed in range(first, first + CHUNK):
        target = all_of_them[seed % len(all_of_them)]
        data = spoil(target.examples[0], seed)
        try:
            target.survives(data)
        except Exception as error:
            crashes.append(f"{target.name}, seed {seed}: {type(error).__name__}: {error}")
    return crashes


if __name__ == "__main__":
    main()

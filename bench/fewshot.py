"""Few labels: what a region reaches on the consensus, on one member's model, and from scratch.

The region's scanner turns images by 90°, which no member has seen. On 10 and on 100 labels a
class: a head on the frozen consensus, the same on a member's solo model, the same on random
weights, and all of the same net trained from there. What `from scratch` is, is the better of the
last two.

Writes bench/results/fewshot.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from bench.builds import RELEASE, Job, over_seeds, run_job
from bench.measure import run_all, write_result

SHOTS = (10, 100)
ROWS = {  # name → from where, and by which method
    "consensus.linear": ("consensus", "linear"),
    "solo.linear": ("solo", "linear"),
    "scratch.linear": ("scratch", "linear"),
    "scratch.full": ("scratch", "full"),
}


def main() -> None:
    """Run every build of every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    jobs = {
        (seed, shots, name): Job(seed, method, shots, start)
        for shots in options.shots
        for seed in options.seeds
        for name, (start, method) in ROWS.items()
    }
    found = run_all(run_job, list(jobs.values()), options.workers)
    right = {place: found[job]["accuracy"] for place, job in jobs.items()}
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "shots": options.shots,
        "release": RELEASE,
        "goal": "gain_over_scratch >= 10 points and gain_over_solo > 0 at 10 labels a class",
    }
    for shots in options.shots:
        values |= summary(right, options.seeds, shots)
    first = options.shots[0]
    for headline in ("gain_over_scratch", "gain_over_solo"):
        values[headline] = values[f"{first}.{headline}"]
    print(write_result("fewshot", values))


def summary(
    right: Mapping[tuple[int, int, str], float], seeds: Sequence[int], shots: int
) -> dict[str, Any]:
    """Flat keys of a number of labels: every row, and the consensus's lead seed by seed.

    The consensus's is the method that needs no choice on test images: the head on it.
    """
    values = {
        f"{shots}.{name}": over_seeds(right[seed, shots, name] for seed in seeds) for name in ROWS
    }

    def lead(over: Sequence[str]) -> dict[str, float]:
        ours = {seed: right[seed, shots, "consensus.linear"] for seed in seeds}
        return over_seeds(ours[s] - max(right[s, shots, name] for name in over) for s in seeds)

    values[f"{shots}.gain_over_scratch"] = lead(("scratch.linear", "scratch.full"))
    values[f"{shots}.gain_over_solo"] = lead(("solo.linear",))
    return values


if __name__ == "__main__":
    main()

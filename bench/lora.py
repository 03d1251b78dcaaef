"""LoRA against full fine-tuning: how much of its gain, by how much of its parameters.

Both start from the same consensus and the same head (on the tokens' mean, which leaves to be
learnt where in a picture things are), with 100 labels a class of a region whose scanner turns
images by 90°. The gain is over that head on the frozen consensus. The head's weights, which both
train, are in neither count of parameters.

Writes bench/results/lora.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench.builds import RELEASE, STEPS, Job, over_seeds, run_job, sizes
from bench.measure import run_all, write_result

METHODS = ("lora", "full")


def main() -> None:
    """Run both methods for every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--shots", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    jobs = {
        (seed, method): Job(seed, method, options.shots, head="pooled", general=True)
        for seed in options.seeds
        for method in METHODS
    }
    found = run_all(run_job, list(jobs.values()), options.workers)
    rows = {m: [found[jobs[seed, m]] for seed in options.seeds] for m in METHODS}
    gains = {m: [row["accuracy"] - row["frozen"] for row in rows[m]] for m in METHODS}
    rank, adapted, whole = sizes(options.seeds[0])
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "shots": options.shots,
        "release": RELEASE,
        "steps": STEPS,
        "rank": rank,
        "parameters": {"lora": adapted, "full": whole},
        "frozen": over_seeds(row["frozen"] for row in rows["full"]),
        **{method: over_seeds(row["accuracy"] for row in rows[method]) for method in METHODS},
        **{f"{method}.gain": over_seeds(gains[method]) for method in METHODS},
        **{
            f"{method}.points_lost": over_seeds(
                row["general_before"] - row["general"] for row in rows[method]
            )
            for method in METHODS
        },
        # Of the mean gains: a seed's own quotient means nothing where there is little to gain.
        "share_of_gain": sum(gains["lora"]) / sum(gains["full"]),
        "share_of_parameters": adapted / whole,
        "goal": "share_of_gain >= 0.95 and share_of_parameters <= 0.05",
    }
    print(write_result("lora", values))


if __name__ == "__main__":
    main()

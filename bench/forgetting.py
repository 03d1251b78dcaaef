"""Forgetting: what of its general capability a model loses by a sovereign build.

General capability is the consensus's own benchmark (see `bench.builds`). A head on the frozen
release moves nothing and loses nothing; asked are the builds that move it: LoRA, full fine-tuning
and continued pre-training, and, beside the default, pre-training with public images rehearsed or
with an anchor.

Writes bench/results/forgetting.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench.builds import RELEASE, Job, over_seeds, run_job
from bench.measure import run_all, write_result

SHOTS = 100
ROWS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "head": "pooled"},
    "full": {"method": "full", "head": "pooled"},
    "pretrain": {"method": "linear", "pretrain": 150},
    "pretrain, rehearsed": {"method": "linear", "pretrain": 150, "rehearse": True},
    "pretrain, anchored": {"method": "linear", "pretrain": 150, "anchor": 0.1},
}
DEFAULT = ("lora", "full", "pretrain")  # without a setting against forgetting


def main() -> None:
    """Run every build of every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    jobs = {
        (seed, name): Job(seed=seed, shots=SHOTS, general=True, **how)
        for seed in options.seeds
        for name, how in ROWS.items()
    }
    found = run_all(run_job, list(jobs.values()), options.workers)
    values: dict[str, Any] = {"seeds": options.seeds, "shots": SHOTS, "release": RELEASE}
    lost: dict[str, list[float]] = {}
    for name in ROWS:
        rows = [found[jobs[seed, name]] for seed in options.seeds]
        lost[name] = [row["general_before"] - row["general"] for row in rows]
        values[f"{name}.points_lost"] = over_seeds(lost[name])
        for key in ("accuracy", "general", "general_before"):
            values[f"{name}.{key}"] = over_seeds(row[key] for row in rows)
    worst = max(DEFAULT, key=lambda name: sum(lost[name]))
    values |= {"points_lost": over_seeds(lost[worst]), "points_lost_by": worst}
    values["goal"] = "points_lost <= 2, of the default build that loses most"
    print(write_result("forgetting", values))


if __name__ == "__main__":
    main()

"""The demo of the world model over several seeds, with spread: real processes, or one for them all.

The federation of `--seeds` has a process for every node and the aggregator; that of `--in-process`
seeds is computed by `examples/in_process`, which equals the real one to the byte.

Writes bench/results/federated_worldmodel.json: journeys done in percent, `premium` (the
consensus's over the best member's alone) and `gap_to_pooled` in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.measure import spread, write_result
from examples.demo_worldmodel import MEMBERS, Plan, run
from gobelin.shared.files import read_json

KEYS = ("rounds", "warmup_rounds", "local_steps", "steps", "tasks")


def main() -> None:
    """Run the demo for each seed and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--in-process", type=int, nargs="*", default=[1, 2, 3, 4], help="more, but for those"
    )
    parser.add_argument("--resume", action="store_true", help="take what seeds have ended with")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--local-steps", type=int, default=Plan.local_steps)
    parser.add_argument("--warmup-rounds", type=int, default=Plan.warmup_rounds)
    parser.add_argument("--tasks", type=int, default=Plan.tasks)
    parser.add_argument("--workers", type=int, default=1, help="seeds at once, of 5 cores each")
    parser.add_argument("--models", type=int, default=0, help="judged at once; 0: one a core")
    parser.add_argument("--name", default="federated_worldmodel", help="of the result file")
    options = parser.parse_args()
    plans = [
        Plan(
            Path("runs") / options.name / f"seed-{seed}",
            options.rounds,
            options.local_steps,
            options.warmup_rounds,
            tasks=options.tasks,
            seed=seed,
            in_process=seed not in options.seeds,
            workers=options.models,
        )
        for seed in sorted({*options.seeds, *options.in_process})
    ]
    with ThreadPoolExecutor(options.workers) as pool:  # each waits for processes of its own
        runs = list(pool.map(lambda plan: result_of(plan, options.resume), plans))
    print(write_result(options.name, summarise(runs)))


def result_of(plan: Plan, resume: bool) -> Mapping[str, Any]:
    """What a seed's demo comes to; with `resume`, what it came to where it has ended."""
    ended = plan.folder / "results.json"
    if resume and ended.exists():
        found: Mapping[str, Any] = read_json(ended)
        return found
    return run(plan, Console())


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Flat keys: every row's figures with spread, the premium and the gap."""
    first = runs[0]
    values: dict[str, Any] = {key: first[key] for key in KEYS}
    values["seeds"] = [run["seed"] for run in runs]
    values["in_process"] = [run["seed"] for run in runs if run["in_process"]]
    values["members"] = list(MEMBERS)
    values["goal"] = "premium >= 2; gap_to_pooled <= 5 points"
    for row in first["success"]:
        values[f"{row}.success"] = spread([run["success"][row] for run in runs])
        values[f"{row}.steps_taken"] = spread([run["steps_taken"][row] for run in runs])
    for row in first["foresight"]:
        for key in ("imagined", "decoded", "still"):
            values[f"{row}.{key}"] = spread([run["foresight"][row][key] for run in runs])
    for key in ("premium", "gap_to_pooled", "seconds"):
        values[key] = spread([run[key] for run in runs])
    if overheads := [run["round_overhead_s"] for run in runs if not run["in_process"]]:
        values["round_overhead_s"] = spread(overheads)
    return values


if __name__ == "__main__":
    main()

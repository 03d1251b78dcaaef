"""What else helps where every member has seen a part of the world, beside cross-node SIGReg?

Each remedy alone, over plain FedAvg and over cross-node SIGReg by moments, in the split world
(`bench.split_world`): the consensus's error over that of the pooled model with the same seed.
Federations in which a member joins late are for comparison with one another.

Writes bench/results/remedies.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from bench.measure import run_all, spread, write_result
from bench.split_rounds import Setting
from bench.split_world import Job, models_of, ratios, run_job
from gobelin.server.outer import Nesterov, Sgd

BASES = {"plain": Setting(), "crossnode": Setting(cross_node="moments")}
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "inner_averaged": {"inner": "averaged"},
    "inner_reset": {"inner": "reset"},
    "fedprox_0.01": {"proximal": 0.01},
    "fedprox_0.1": {"proximal": 0.1},
    "scaffold": {"drift": True},
    "layerwise": {"layerwise": True},
    "outer_1.5": {"outer": Sgd(1.5)},
    "nesterov_1_0.5": {"outer": Nesterov(1.0, 0.5)},
    "nesterov_0.7_0.9": {"outer": Nesterov(0.7, 0.9)},
    "encoder_twice": {"often": "encoder"},
    "half_rounds": {"local_steps": 5},
    "late": {"late": True},
    "late_anchor": {"late": True, "anchor": 1.0},
}


def main() -> None:
    """Run every remedy and seed, `--workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--remedies", nargs="+", default=list(REMEDIES), choices=list(REMEDIES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="remedies", help="of the result file")
    options = parser.parse_args()
    settings = {
        (base, remedy): replace(BASES[base], **REMEDIES[remedy])
        for base in options.bases
        for remedy in options.remedies
    }
    wanted = {
        (key, seed): Job("members", seed, options.steps, setting)
        for key, setting in settings.items()
        for seed in options.seeds
    }
    pooled = [models_of(seed, options.steps)["pooled"] for seed in options.seeds]
    found = run_all(run_job, list(dict.fromkeys([*wanted.values(), *pooled])), options.workers)
    yardstick = [found[job]["imagined"] for job in pooled]
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "steps": options.steps,
        "goal": "report what helps",
        "pooled": spread(yardstick),
    }
    for base, remedy in settings:
        runs = [found[wanted[(base, remedy), seed]] for seed in options.seeds]
        errors = [run["imagined"] for run in runs]
        values[f"{base}.{remedy}.error"] = spread(errors)
        values[f"{base}.{remedy}.decoded"] = spread([run["decoded"] for run in runs])
        values[f"{base}.{remedy}.over_pooled"] = spread(ratios(errors, yardstick))
    print(write_result(options.name, values))


if __name__ == "__main__":
    main()

"""ONNX exports beside the models they are of: how far apart, and how much faster on a CPU.

For several recipes and seeds of weights, samples and head: the export is checked as
`gobelin sovereign export` does, then both answer the same batches in turn, PyTorch in eager mode
under `inference_mode` and onnxruntime, with as many threads each. A time is the fastest of several,
a speedup one time over the other. With one thread it is the processor's, which a busy machine
changes little; with several it is the wall's. `plain` is onnxruntime without graph optimisations.

Writes bench/results/onnx.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.measure import spread, write_result
from gobelin.client.sovereign.export.inference import graphs_of
from gobelin.client.sovereign.export.onnx_graph import (
    OPSET,
    open_session,
    run_session,
    runtime,
    write_onnx,
)
from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.recipe import load_recipe
from tests.client.sovereign_models import made

RECIPES = ("tiny", "text_tiny", "series_tiny", "two_room", "small")
BATCHES = (1, 8, 64)
SEEDS = (0, 1, 2, 3, 4)
ONLY = {"small": (0,)}  # 22 million parameters, for which one seed has to do
LARGEST = {"small": 8}  # batch
BLOCKS, BLOCK_S = 3, 0.15  # of a measurement; seconds of a block, of two repetitions at least
GOAL = "differs by at most 1e-4; faster than eager torch"


def fastest(clock: Callable[[], float], *ways: Callable[[], Any]) -> list[float]:
    """The least seconds of each, run in blocks in turn: one's threads may spin into the next."""
    least = [math.inf] * len(ways)
    for _ in range(BLOCKS):
        for place, ask in enumerate(ways):
            ask()
            until, count = time.perf_counter() + BLOCK_S, 0
            while count < 2 or time.perf_counter() < until:
                start = clock()
                ask()
                least[place] = min(least[place], clock() - start)
                count += 1
    return least


def plain_session(file: Path, threads: int) -> Any:
    """An onnxruntime session that changes nothing of the graph."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def measure(model: SovereignModel, seed: int, threads: Sequence[int], most: int) -> dict[str, Any]:
    """Difference and times of one model."""
    graph = graphs_of(model)[0]
    cells: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        told = write_onnx(model, Path(folder))
        seconds = time.perf_counter() - start
        file = Path(folder) / "model.onnx"
        for count in threads:
            torch.set_num_threads(count)
            ours, plain = open_session(file, count), plain_session(file, count)
            for batch in (size for size in BATCHES if size <= most):
                inputs = graph.made_up(batch, seed)
                eager, onnx, bare = fastest(
                    time.process_time if count == 1 else time.perf_counter,
                    partial(graph.run, inputs),
                    partial(run_session, ours, inputs),
                    partial(run_session, plain, inputs),
                )
                cells[f"{count}.{batch}"] = {
                    "eager_ms": 1e3 * eager,
                    "onnx_ms": 1e3 * onnx,
                    "plain_ms": 1e3 * bare,
                    "speedup": eager / onnx,
                }
    return {"max_abs_diff": told["max_abs_diff"], "export_s": seconds, "cells": cells}


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Over seeds, for each recipe, threads and batch; and over all."""
    values: dict[str, Any] = {"recipes": list(found), "max_abs_diff": 0.0}
    means = []
    for name, runs in found.items():
        values["max_abs_diff"] = max(values["max_abs_diff"], *(r["max_abs_diff"] for r in runs))
        values[f"{name}.max_abs_diff"] = max(run["max_abs_diff"] for run in runs)
        values[f"{name}.seeds"] = len(runs)
        for cell in runs[0]["cells"]:
            for key in runs[0]["cells"][cell]:
                told = spread([run["cells"][cell][key] for run in runs])
                values[f"{name}.{cell}.{key}"] = told
                means += [told["mean"]] if key == "speedup" else []
    values["speedup"] = math.exp(sum(map(math.log, means)) / len(means))
    values["least_speedup"] = min(means)
    return values


def main() -> None:
    """Measure every recipe over its seeds, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.recipes:
        recipe = load_recipe(name)
        world = any(table.kind == "trajectory" for table in recipe.modalities.values())
        for seed in ONLY.get(name, SEEDS):
            model = made(recipe, "" if world else "linear", seed=seed)
            told = measure(model, seed, options.threads, LARGEST.get(name, max(BATCHES)))
            found.setdefault(name, []).append(told)
            print(name, seed, f"{told['max_abs_diff']:.1e}", told["cells"], flush=True)
    values = summary(found)
    values |= {"threads": options.threads, "batches": list(BATCHES), "opset": OPSET, "goal": GOAL}
    values["runtime"] = f"onnxruntime {runtime().__version__}"
    print(write_result("onnx", values))


if __name__ == "__main__":
    main()

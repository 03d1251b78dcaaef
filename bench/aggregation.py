"""Aggregating 8 deltas of P parameters: Gobelin's fixed-point mean against Flower's numpy FedAvg.

Both get the same equal weights and the same vectors in memory, split into tensors as a model has
them for Flower, and turns are taken in one process. Gobelin's result is checked to have the same
bits for other orders of the members, for deltas on disk instead of in memory, and for another
number of threads.

Writes bench/results/aggregation.json. Needs about 4 × (members + 3) × P bytes of memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.server.strategy.aggregate import aggregate as flower_aggregate
from torch import Tensor

from bench.measure import spread, write_result
from gobelin.server.aggregation import InMemory, aggregate, weighted_mean
from gobelin.server.deltas import RoundDeltas
from gobelin.server.rules import RULES, make_rule
from gobelin.shared.vector import ParameterSchema, ParameterVector

TENSORS = 100  # into which the vector is split for Flower


def main() -> None:
    """Measure, check the bits, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of Gobelin; numpy's adding has one")
    parser.add_argument("--rules", action="store_true", help="time every rule as well, once")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    deltas = [
        torch.empty(options.parameters).normal_(0, 1e-2, generator=generator)
        for _ in range(options.members)
    ]
    weights = [Fraction(1, options.members)] * options.members
    layers = [(np.array_split(delta.numpy(), TENSORS), 1) for delta in deltas]
    times: dict[str, list[float]] = {"gobelin": [], "flower": []}
    for _ in range(options.repetitions):
        seconds, mean = timed(lambda: weighted_mean(InMemory(deltas), weights))
        times["gobelin"].append(seconds)
        seconds, theirs = timed(lambda: flower_aggregate(layers))
        times["flower"].append(seconds)
    exact = torch.stack([delta[:1_000_000].double() for delta in deltas]).mean(dim=0)
    values: dict[str, Any] = {
        "parameters": options.parameters,
        "members": options.members,
        "threads": options.threads,
        "seconds_gobelin": spread(times["gobelin"]),
        "seconds_flower": spread(times["flower"]),
        "speedup": spread(
            [theirs / ours for ours, theirs in zip(times["gobelin"], times["flower"], strict=True)]
        ),
        "error_gobelin": error(mean, exact),
        "error_flower": error(torch.from_numpy(np.concatenate(theirs)), exact),
        "same_bits": same_bits(deltas, weights, mean),
        "goal": "speedup >= 2, same bits always",
    }
    if options.rules:
        for name in RULES:
            seconds, _ = timed(lambda: aggregate(InMemory(deltas), weights, make_rule(name)))  # noqa: B023
            values[f"seconds_whole_round.{name}"] = seconds
    print(write_result("aggregation", values))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds it took, and what it gave."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def error(found: Tensor, exact: Tensor) -> float:
    """Largest deviation from the fp64 mean on the first coordinates, in fp32 ulps of a delta."""
    return float((found[: len(exact)].double() - exact).abs().max()) / (1e-2 * 2.0**-23)


def same_bits(deltas: list[Tensor], weights: list[Fraction], mean: Tensor) -> bool:
    """Whether order, storage and threads leave every bit as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    same = torch.equal(weighted_mean(InMemory(deltas[::-1]), weights), mean)
    torch.set_num_threads(before)
    schema = ParameterSchema.of_shapes({"w": (len(mean),)})
    with tempfile.TemporaryDirectory() as folder:
        stored = RoundDeltas(Path(folder) / "collecting", schema.size)
        for i, delta in enumerate(deltas):
            stored.add(str(len(deltas) - i), ParameterVector(schema, delta))
        return same and torch.equal(weighted_mean(stored, weights), mean)


if __name__ == "__main__":
    main()

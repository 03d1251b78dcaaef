"""Aggregating 8 deltas of P parameters: Gobelin's fixed-point mean against Flower's FedAvg.

Flower has two of them: `flwr.server.strategy.aggregate.aggregate` over numpy layers, which the
goal names, and `aggregate_arrayrecords`, which its ServerApps run today. All get the same equal
weights and the same vectors in memory, for Flower split into tensors as a model has them, and take
turns in one process. Gobelin's largest |δ| is known beforehand, as it is to an aggregator, whose
admission looks at every delta as it arrives; Flower looks at none.

Gobelin's result is checked to have the same bits for other orders of the members, for deltas on
disk instead of in memory, and for another number of threads. A whole merge is timed as well: norms
and influence, the rule, diagnostics.

Writes bench/results/aggregation.json. Needs about 4 × (2 × members + 3) × P bytes of memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in the aggregator's processes

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate as flower_aggregate
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from torch import Tensor

from bench.measure import spread, write_result
from gobelin.server.aggregation import Aggregate, InMemory, aggregate, weighted_mean
from gobelin.server.deltas import RoundDeltas
from gobelin.server.rules import RULES, make_rule
from gobelin.shared.vector import ParameterSchema, ParameterVector

WEIGHT = "num-examples"


def main() -> None:
    """Measure, check the bits, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--tensors", type=int, default=100, help="into which Flower's are split")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of Gobelin; numpy's adding has one"
    )
    parser.add_argument("--rules", nargs="*", default=["mean"], choices=list(RULES))
    parser.add_argument("--name", default="aggregation", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    deltas = [
        torch.empty(options.parameters).normal_(0, 1e-2, generator=generator)
        for _ in range(options.members)
    ]
    weights = [Fraction(1, options.members)] * options.members
    held = InMemory(deltas)
    peaks, _, _ = timed(lambda: held.peaks)
    layers = [(np.array_split(delta.numpy(), options.tensors), 1) for delta in deltas]
    records = [as_reply(tensors) for tensors, _ in layers]
    turns: dict[str, Callable[[], Any]] = {
        "gobelin": lambda: weighted_mean(held, weights),
        "flower": lambda: flower_aggregate(layers),
        "flower_arrayrecords": lambda: aggregate_arrayrecords(records, WEIGHT),
        **{
            f"whole_merge.{rule}": partial(whole_merge, held, weights, rule)
            for rule in options.rules
        },
    }
    wall: dict[str, list[float]] = {name: [] for name in turns}
    cpu: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(options.repetitions):
        for name, work in turns.items():
            seconds, used, _ = timed(work)
            wall[name].append(seconds)
            cpu[name].append(used)
    mean = weighted_mean(held, weights)
    theirs = torch.from_numpy(np.concatenate(flower_aggregate(layers)))
    exact = torch.stack([delta[:1_000_000].double() for delta in deltas]).mean(dim=0)
    values: dict[str, Any] = {
        **{k: v for k, v in vars(options).items() if k not in ("name", "rules")},
        **{f"seconds.{name}": spread(times) for name, times in wall.items()},
        **{f"cpu_seconds.{name}": spread(times) for name, times in cpu.items()},
        "seconds.peaks": peaks,
        "speedup": ratios(wall["flower"], wall["gobelin"]),
        "speedup_best": min(wall["flower"]) / min(wall["gobelin"]),
        "speedup_arrayrecords": ratios(wall["flower_arrayrecords"], wall["gobelin"]),
        "speedup_arrayrecords_best": min(wall["flower_arrayrecords"]) / min(wall["gobelin"]),
        "error_gobelin": error(mean, exact),
        "error_flower": error(theirs, exact),
        "same_bits": same_bits(deltas, weights, mean),
        "goal": "speedup >= 2, same bits always",
    }
    print(write_result(options.name, values))


def as_reply(tensors: list[np.ndarray]) -> RecordDict:
    """A node's reply as Flower's strategies get it."""
    arrays = ArrayRecord({f"{i:04d}": Array(tensor) for i, tensor in enumerate(tensors)})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({WEIGHT: 1})})


def whole_merge(deltas: InMemory, weights: Sequence[Fraction], rule: str) -> Aggregate:
    """What a rule named so makes of the deltas."""
    return aggregate(deltas, weights, make_rule(rule))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of processor time of all threads, and what it gave."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started, time.process_time() - used, result


def ratios(baseline: list[float], ours: list[float]) -> dict[str, float]:
    """How many times faster, repetition by repetition."""
    return spread([theirs / own for theirs, own in zip(baseline, ours, strict=True)])


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

"""Exchange time of a round, 2 nodes: `gobelin aggregator up` and its nodes against stock Flower.

All processes are real, on loopback, behind TLS. What is timed is the exchange: from one sealed
round to the next, without the training, for which an addition of noise stands on both sides; its
seconds are reported by the nodes and taken off. Ours: base out, delta encoded, spooled, sent,
admitted, journalled, decoded, merged, outer step, checkpoint; the collapse gate, which computes
and does not exchange, is off, and so is spooling an inner optimizer's state, as nothing is trained.
Stock: SuperLink (in memory, its default, and SQLite), SuperNodes and FedAvg with vectors of the
same size in --tensors tensors. Of the stock's two, speedups are against the faster.

What is taken off on both sides is the addition of noise alone; whatever else passes between two
sealed rounds is in, files flushed and waits for the next look included.

A codec is written UP/DOWN: of the contributions, and of the broadcast. `speedup` is the largest
size's with int4 both ways; int4 up alone, where bases go whole and in fp32, has keys of its own.
The headline and Flower's default come first, at every size, the others as long as --minutes last.

Writes bench/results/exchange.json, anew after every variant. 100M parameters of stock Flower take
about 10 GB of memory.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.aggregator_memory import RECIPE, SIZES
from bench.measure import spread, write_result

NODES = ("north", "south")
NOISE = 1e-3
IN_MEMORY = ":flwr-in-memory:"
GIVE_UP_S = 3600.0
HEADLINE = "int4/int4"


def main() -> None:
    """Time every variant at every size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 100], choices=list(SIZES))
    parser.add_argument("--codecs", nargs="+", default=[HEADLINE, "int4/fp32", "fp32/fp32"])
    parser.add_argument("--rounds", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--stock", nargs="*", default=["memory", "sqlite"])
    parser.add_argument("--minutes", type=float, default=6, help="no variant begins after them")
    parser.add_argument("--tensors", type=int, default=100, help="of the stock's vectors")
    shared = max(1, (os.cpu_count() or 1) // (len(NODES) + 2))  # with the aggregator's two
    parser.add_argument("--threads", type=int, default=shared, help="of each process")
    parser.add_argument("--name", default="exchange", help="of the result file")
    parser.add_argument("--node", type=Path, help="for this script's own use")
    options = parser.parse_args()
    if options.node:
        run_node(options.node)
        return
    values: dict[str, Any] = {
        **{k: v for k, v in vars(options).items() if k not in ("name", "node")},
        "nodes": len(NODES),
        "goal": "speedup >= 10 at int4 both ways",
    }
    give_up = time.monotonic() + 60 * options.minutes
    variants = sorted(in_order(options), key=lambda variant: variant.later)
    for number, variant in enumerate(variants):
        if number and time.monotonic() > give_up:
            values["left_out"] = [each.key for each in variants[number:]]
            break
        found = timed_in(functools.partial(variant.run, options=options))
        values |= {f"{variant.key}.{key}": value for key, value in found.items()}
        for size in options.sizes:
            values |= speedups(values, size, options)
        values["speedup"] = values.get(f"{max(options.sizes)}M.{HEADLINE}.speedup")
        write_result(options.name, values)
    print(write_result(options.name, values))


@dataclass(frozen=True)
class Variant:
    """One of those that are timed."""

    key: str
    later: bool  # after those of the headline
    run: Callable[..., dict[str, Any]]  # (folder, options)


def in_order(options: argparse.Namespace) -> Iterator[Variant]:
    """Ours and theirs, size by size."""
    for size in options.sizes:
        for codec in options.codecs:
            run = functools.partial(ours, size, codec)
            yield Variant(f"{size}M.{codec}", codec != HEADLINE, run)
        for kind in options.stock:
            run = functools.partial(theirs, size, kind)
            yield Variant(f"{size}M.stock_{kind}", kind != "memory", run)


def timed_in(work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Run one variant in a folder of its own, and leave nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-"))
    try:
        found = work(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(found, flush=True)
    return found


def speedups(values: dict[str, Any], size: int, options: argparse.Namespace) -> dict[str, float]:
    """Of each codec, against the faster of the stock's link states: of medians, and of minima."""
    stock = [f"{size}M.stock_{kind}" for kind in options.stock]
    finished = [key for key in stock if values.get(f"{key}.median_s") is not None]
    timed = [
        f"{size}M.{codec}" for codec in options.codecs if f"{size}M.{codec}.median_s" in values
    ]
    if not finished:
        return {}
    median = min(values[f"{key}.median_s"] for key in finished)
    least = min(values[f"{key}.seconds"]["min"] for key in finished)
    found = {f"{key}.speedup": median / values[f"{key}.median_s"] for key in timed}
    return found | {
        f"{key}.speedup_of_minima": least / values[f"{key}.seconds"]["min"] for key in timed
    }


def figures(seconds: list[float], cpu: float) -> dict[str, Any]:
    """Of the timed rounds: seconds on the clock, and processor time a round of all processes."""
    return {
        "seconds": spread(seconds),
        "median_s": statistics.median(seconds),
        "cpu_s_a_round": cpu / len(seconds),
    }


def processor_seconds(roots: Iterable[int]) -> float:
    """Processor time so far of processes and all that they started."""
    total = 0.0
    for root in roots:
        try:
            process = psutil.Process(root)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


# ---------------------------------------------------------------- ours


def ours(size: int, codec: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The real commands; nodes are `gobelin node run` but for the training."""
    from examples.loopback import Loopback
    from gobelin.server.home import AggregatorHome
    from gobelin.shared.data.export import write_idx
    from gobelin.shared.settings import write_settings

    dim, depth = SIZES[size]
    recipe = folder / "bench.toml"
    recipe.write_text(RECIPE.format(dim=dim, depth=depth))
    data = folder / "data"
    write_idx(data, torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    rounds = options.rounds + 1
    up, _, down = codec.partition("/")
    settings = ("--codec", up, "--broadcast", down or "fp32")
    members = dict.fromkeys(NODES, data)
    with Loopback(
        folder / "net", members, str(recipe), rounds, options=settings, threads=options.threads
    ) as net:
        net.found()
        home = AggregatorHome(net.aggregator_home)
        given = home.settings()
        policy = given.policy.model_copy(update={"collapse_gate": False})
        write_settings(home.settings_file, given.model_copy(update={"policy": policy}))
        net.start_aggregator()
        for name in NODES:
            net.processes[name] = start_node(
                net.node_home(name), folder / f"{name}.log", net.threads
            )
        pids = [process.pid for process in net.processes.values()]
        net.wait_for("round_sealed", 1, GIVE_UP_S)
        used = processor_seconds(pids)
        net.wait_for("round_sealed", rounds, GIVE_UP_S)
        used = processor_seconds(pids) - used
        sealed = net.events("round_sealed")
        ended = [datetime.datetime.fromisoformat(row["at"]).timestamp() for row in sealed]
        training = [row["seconds"] - row["overhead_s"] for row in sealed]
        seconds = [ended[i] - ended[i - 1] - training[i] for i in range(1, rounds)]
        return {**figures(seconds, used), "bytes_up": sealed[-1]["bytes"]}


def start_node(home: Path, log: Path, threads: int) -> subprocess.Popen[bytes]:
    """This script as a node."""
    command = [sys.executable, "-m", "bench.exchange", "--node", str(home)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )


def run_node(folder: Path) -> None:
    """`gobelin node run` with a trainer that only moves the base a little."""
    from gobelin.client import contributor, link
    from gobelin.client.home import NodeHome
    from gobelin.client.plan import parse_recipe
    from gobelin.client.progress import Progress

    def stand_in(self: Any, plan: Any) -> Any:
        self._trainer = self._trainer or Mover(parse_recipe(plan.recipe))
        return self._trainer

    contributor.Contributor._warm_trainer = stand_in  # type: ignore[method-assign]
    home = NodeHome(folder)
    with Progress(home.settings().node, True, home.folder) as progress:
        link.serve(home, progress.on_status)


class Mover:
    """Stands where a LocalTrainer does."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe
        self._noise: torch.Tensor | None = None

    def train(self, base: Any, local: Any, on_step: Any) -> tuple[Any, Any]:
        from gobelin.client.trainer import TrainingReport
        from gobelin.shared.health import Health
        from gobelin.shared.vector import ParameterVector

        if self._noise is None:
            self._noise = torch.empty(base.schema.size).normal_(0, NOISE)
        health = Health(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, dim=0, samples=0)
        report = TrainingReport(local.steps, 0.0, 0.0, 0.0, 0.0, 0.0, health, 1, 0.0)
        return ParameterVector(base.schema, base.values + self._noise), report

    def state(self) -> dict[str, torch.Tensor]:
        return {}


# ---------------------------------------------------------------- theirs


def theirs(size: int, kind: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Stock Flower; None where it does not finish."""
    from bench.stock import stock

    dim, depth = SIZES[size]
    ended, trained = folder / "ended", folder / "trained"
    given = {
        "parameters": parameters_of(dim, depth),
        "tensors": options.tensors,
        "rounds": options.rounds + 1,
        "nodes": len(NODES),
        "threads": options.threads,
        "ended": str(ended),
        "trained": str(trained),
    }
    database = IN_MEMORY if kind == "memory" else str(folder / "link.db")
    with stock(folder / "stock", database, len(NODES), given) as processes:
        pids = [process.pid for process in processes]
        if not wait_for_lines(ended, 2):
            return {"median_s": None, "log": tail(folder / "stock" / "stock.log")}
        used = processor_seconds(pids)
        if not wait_for_lines(ended, options.rounds + 2):
            return {"median_s": None, "log": tail(folder / "stock" / "stock.log")}
        used = processor_seconds(pids) - used
    times = [float(line.split()[1]) for line in ended.read_text().splitlines()]
    training = [float(line.split()[2]) for line in trained.read_text().splitlines()]
    seconds = [times[i] - times[i - 1] - training[i - 1] for i in range(2, options.rounds + 2)]
    return figures(seconds, used)


def wait_for_lines(file: Path, count: int) -> bool:
    """Whether a file comes to have so many lines in good time."""
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        if file.exists() and len(file.read_text().splitlines()) >= count:
            return True
        time.sleep(0.05)
    return False


def tail(log: Path) -> str:
    """The last lines of a log: why it did not finish."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def parameters_of(dim: int, depth: int) -> int:
    """Parameters of the recipe, so that the stock's vectors are of the same size."""
    from gobelin.client.plan import parse_recipe, schema_of
    from gobelin.shared.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.toml"
        file.write_text(RECIPE.format(dim=dim, depth=depth))
        return schema_of(parse_recipe(load_recipe(str(file)).canonical())).size


if __name__ == "__main__":
    main()

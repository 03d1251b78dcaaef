"""Members a minute in the simulation engine, and what it takes in memory.

A study of Fashion-MNIST, founded and run by the code of `gobelin simulate`; then the same rounds
one member after the other in this process, without Flower, Ray or anything on disk: the baseline,
whose consensus must have the same digest. The engine's start is timed apart; a study pays it once.

Writes bench/results/simulation.json.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from bench.measure import spread, write_result
from examples.in_process import federate_in_process
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import Source
from gobelin.shared.recipe import load_recipe
from gobelin.simulation.study import Study, StudyHome, open_study
from gobelin.simulation.supervisor import Supervisor

SAMPLE_S = 0.5


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--local-steps", type=int, default=5)
    parser.add_argument("--recipe", default="toy")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(options, seed) for seed in range(options.seeds)]
    values: dict[str, Any] = {
        "members": options.members,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "recipe": options.recipe,
        "seeds": options.seeds,
        "actors": Study(members=options.members).actors,
        **{key: spread([row[key] for row in rows]) for key in rows[0]},
    }
    print(write_result("simulation", values))


def measure(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """One study and its baseline."""
    with tempfile.TemporaryDirectory() as folder:
        home = StudyHome(Path(folder) / "study")
        rounds = {"rounds": options.rounds, "local_steps": options.local_steps}
        given = {"members": options.members, "recipe": options.recipe, "seed": seed}
        started = time.perf_counter()
        open_study(home, {**given, "federation": {"rounds": rounds}})
        founded = time.perf_counter()
        marks: dict[str, float] = {}

        def note(event: dict[str, Any]) -> None:
            marks.setdefault(event["event"], time.perf_counter())

        with Memory() as memory:
            Supervisor(home, note).run()
        theirs, seconds = one_after_the_other(home, options, seed)
        if theirs != read_checkpoint(home.last_release()).vector.digest:
            raise SystemExit("the simulation's consensus is not the one of the same rounds here")
    trained = options.members * options.rounds
    return {
        "members_per_minute": 60 * trained / (marks["finished"] - marks["round_opened"]),
        "members_per_minute_in_process": 60 * trained / seconds,
        "founding_s": founded - started,
        "start_s": marks["round_opened"] - founded,
        "peak_mb": memory.peak / 2**20,
    }


def one_after_the_other(
    home: StudyHome, options: argparse.Namespace, seed: int
) -> tuple[str, float]:
    """Digest of the same rounds in this process with one thread, and the seconds they took."""
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    sources: dict[str, Source] = {
        name: recipe.modality().open(home.data(name)) for name in home.study().names
    }
    started = time.perf_counter()
    vector = federate_in_process(recipe, sources, options.rounds, options.local_steps, seed)
    return vector.digest, time.perf_counter() - started


class Memory:
    """Samples what this process's children hold together, shared pages counted once."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            children = psutil.Process().children(recursive=True)
            self.peak = max(self.peak, sum(map(held, children)))


def held(process: psutil.Process) -> int:
    """Bytes a process holds, its share of shared pages among them; 0 when it is gone."""
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))  # pss: on Linux
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()

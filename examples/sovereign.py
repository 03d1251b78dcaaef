"""What the examples of sovereign builds share: builds in memory, seeds, and a table of them.

A region of an example builds by the very functions `gobelin sovereign build` calls, on consensus
checkpoints trained in this process; nobody has signed those, and the lineage says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from examples.in_process import federate_in_process
from examples.processes import one_thread, told_errors
from gobelin.client.sovereign import BuildSettings, Given, SovereignModel, make_model
from gobelin.client.sovereign.again import repeater
from gobelin.client.sovereign.assessment import (
    Region,
    assess,
    contender_of,
    frozen_of,
    task_of,
    with_report,
)
from gobelin.client.sovereign.card import FILE as CARD
from gobelin.client.sovereign.card import card_of
from gobelin.client.sovereign.consensus import Consensus, take_release
from gobelin.client.sovereign.lineage import region_key
from gobelin.client.sovereign.package import write_package
from gobelin.client.sovereign.page import report_files
from gobelin.client.sovereign.report import EvaluationSettings, title_of
from gobelin.shared.checkpoint import MANIFEST, read_checkpoint, write_checkpoint
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.errors import DatasetError
from gobelin.shared.evaluation.benchmarks import Benchmark, Contender
from gobelin.shared.evaluation.intervals import Indices
from gobelin.shared.files import write_atomic, write_json
from gobelin.shared.recipe import Recipe

Rows = dict[str, dict[str, float]]  # of one seed: a model's figures by column
CACHE = Path(".cache")
BRIEF: dict[str, Any] = {"shots": (), "shifted_samples": 0, "resamples": 500}
FEW_STEPS = {"steps": 4, "every": 2}  # of training, in the smallest form


@dataclass(frozen=True)
class Run:
    """One seed of an example."""

    seed: int
    out: Path  # where the first seed leaves its model and report
    first: bool  # whether this is it
    fast: bool  # the smallest form: that it works, not how well

    def shortened(self, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The methods, in the smallest form hardly trained at all."""
        if not self.fast:
            return {name: dict(changes) for name, changes in methods.items()}
        return {
            name: {key: FEW_STEPS if key == "pretrain" else told for key, told in changes.items()}
            | {"tuning": FEW_STEPS}
            for name, changes in methods.items()
        }


def label_methods(kept: str) -> dict[str, dict[str, Any]]:
    """Builds that learn from labels; the one named `kept` is first pre-trained on own samples."""
    return {
        "linear head": {"method": "linear"},
        "LoRA": {"method": "lora"},
        "full fine-tune": {"method": "full"},
        kept: {"method": "linear", "pretrain": {"steps": 150}},
    }


@dataclass(frozen=True)
class Place:
    """A region: its data, its consensus and what it compares with."""

    name: str
    consensus: Consensus
    given: Given
    region: Region
    evaluation: EvaluationSettings
    general: Sequence[Benchmark] = ()

    def compare(self, run: Run, methods: Mapping[str, Mapping[str, Any]], keep: str) -> Rows:
        """Every method's build beside the same from scratch, consensus and solo model, each asked
        once; the first seed's build by the method `keep` is reported on, signed and written."""
        asked = {name: self._settings(run, changes) for name, changes in methods.items()}
        models = {n: make_model(self.consensus, self.given, s) for n, s in asked.items()}
        any_model = next(iter(models.values()))
        task = task_of(any_model, self.region, self.evaluation)
        rivals = {"consensus": self._frozen("consensus", self.consensus)}
        if self.evaluation.solo is not None:
            rivals["solo"] = self._frozen("solo", taken(self.evaluation.solo))
        values = {name: headline(task, rival) for name, rival in rivals.items()}
        rows = {title_of(name, task.kind): values[name] for name in rivals}
        for name, model in models.items():
            again = repeater(self.consensus, self.given, asked[name])("scratch", None)
            own = headline(task, contender_of(name, model))
            first = next(iter(own))
            scratch = headline(task, contender_of("scratch", again))
            leads = {f"over {rival}": own[first] - value[first] for rival, value in values.items()}
            rows[name] = {**own, **leads, "over scratch": own[first] - scratch[first]}
            rows[name]["points lost"] = self._lost(rivals["consensus"], model)
            if name == keep and run.first:
                self._write(run, model, asked[name])
        return rows

    def _settings(self, run: Run, changes: Mapping[str, Any]) -> BuildSettings:
        given = {"release": "-", "data": "-", "out": "-", "unverified": True, "region": self.name}
        told = {**given, "seed": run.seed, "compute": {"device": "cpu"}, **changes}
        return BuildSettings.model_validate(told)

    def _frozen(self, role: str, of: Consensus) -> Contender:
        return frozen_of(role, of.recipe, of.vector, None, "cpu")

    def _lost(self, consensus: Contender, model: SovereignModel) -> float:
        """Points on the worst general benchmark; 0 where the build has moved nothing."""
        if model.vector.digest == self.consensus.vector.digest or not self.general:
            return 0.0
        after = Contender("sovereign", model.encoder)
        pairs = [(headline(b, consensus), headline(b, after)) for b in self.general]
        return max(next(iter(x.values())) - next(iter(y.values())) for x, y in pairs)

    def _write(self, run: Run, model: SovereignModel, settings: BuildSettings) -> None:
        again = repeater(self.consensus, self.given, settings)
        report = assess(
            model,
            self.consensus,
            self.region,
            self.evaluation,
            again=again,
            general=self.general,
        )
        told = with_report(model, report, report_files(report))
        told = replace(told, files={**told.files, CARD: card_of(told).encode()})
        write_package(run.out / "model", told, region_key(run.out / "home"))


def headline(task: Benchmark, contender: Contender) -> dict[str, float]:
    """A contender's figures, the first being the one it is judged by."""
    found = task.measure(contender).figures
    return {name: each.of(np.arange(len(each.strata))) for name, each in found.items()}


def trained(
    folder: Path,
    recipe: Recipe,
    members: Mapping[str, Source[Any]],
    rounds: int,
    local_steps: int,
    seed: int,
    **options: Any,
) -> Path:
    """A checkpoint of a federation in this process (of one member: of it alone), kept in `folder`
    until something else is asked for there."""
    facts = {
        "federation": "example",
        "round": rounds,
        "local_steps": local_steps,
        "seed": seed,
        "members": {name: len(source) for name, source in members.items()},
        "recipe_digest": recipe.digest,
        "options": {name: str(value) for name, value in options.items()},
    }
    if not (folder / MANIFEST).is_file() or read_checkpoint(folder).facts != facts:
        vector = federate_in_process(recipe, members, rounds, local_steps, seed, **options)
        write_checkpoint(folder, recipe, vector, facts)
    return folder


def taken(folder: Path) -> Consensus:
    """A consensus nobody has signed."""
    return take_release(folder, unverified=True)


def require_data(folder: Path, command: str) -> Path:
    """A prepared data set's folder; raises DatasetError saying how to get it."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DatasetError(f"there is no {folder}", f"once, with a network: `{command}`")
    return folder


def part(source: Source, chosen: Indices) -> MemorySource:
    """Some samples, in memory."""
    labels = source.labels
    kept = None if labels is None else labels[chosen]
    return MemorySource(source.read(chosen), kept, source.class_names)


def run_example(name: str, about: str, run: Callable[[Run], Rows], columns: Sequence[str]) -> None:
    """The command line of an example: every seed, the table, and where things were left."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="one seed, smallest: that it works")
    options = parser.parse_args()
    with told_errors():
        seeds = options.seeds[:1] if options.fast else options.seeds
        runs = [Run(seed, options.out, seed == seeds[0], options.fast) for seed in seeds]
        started = time.perf_counter()
        found: list[Rows] = []
        table = note = ""
        for rows in _each(run, runs, options.workers):
            found.append(rows)
            table = table_of(found, columns)
            done = ", ".join(str(seed) for seed in seeds[: len(found)])
            note = f"seeds {done}; mean ± standard deviation over them"
            write_atomic(options.out / "table.md", f"{table}\n\n{note}\n".encode())
            write_json(options.out / "results.json", {"seeds": seeds[: len(found)], "rows": found})
        print(f"{table}\n{note}; {time.perf_counter() - started:.0f} s")
        if (options.out / "model").is_dir():
            page = options.out / "model" / "report.html"
            print(f"the model of seed {seeds[0]}, signed: {options.out / 'model'}; report: {page}")


def _each(run: Callable[[Run], Rows], runs: Sequence[Run], workers: int) -> Iterator[Rows]:
    """What every seed found, in their order, as soon as it is there."""
    if len(runs) < 2 or workers < 2:
        one_thread()
        yield from map(run, runs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        yield from pool.map(run, runs)


def table_of(found: Sequence[Rows], columns: Sequence[str]) -> str:
    """Markdown: rows as they first come, mean ± standard deviation over seeds."""
    names = list(dict.fromkeys(name for rows in found for name in rows))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for name in names:
        cells = []
        for column in columns:
            values = [rows[name][column] for rows in found if column in rows.get(name, {})]
            cells.append(_cell(values, signed=column.startswith(("over", "points"))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], signed: bool) -> str:
    if not values:
        return "–"
    sign = "+" if signed else ""
    mean = f"{statistics.fmean(values):{sign}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"

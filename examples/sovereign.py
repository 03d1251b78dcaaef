"""What the examples of sovereign builds share: builds in memory, seeds, and a table of them.

A region of an example builds by the very functions `gobelin sovereign build` calls, on consensus
checkpoints trained in this process; nobody has signed those, and the lineage says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from examples.in_process import federate_in_process
from examples.processes import one_thread, told_errors
from gobelin.client.sovereign import BuildSettings, Given, SovereignModel, make_model
from gobelin.client.sovereign.again import repeater
from gobelin.client.sovereign.assessment import Region, assess, with_report
from gobelin.client.sovereign.card import FILE as CARD
from gobelin.client.sovereign.card import card_of
from gobelin.client.sovereign.consensus import Consensus, take_release
from gobelin.client.sovereign.lineage import region_key
from gobelin.client.sovereign.package import write_package
from gobelin.client.sovereign.page import report_files
from gobelin.client.sovereign.report import SOVEREIGN, EvaluationSettings, Report
from gobelin.shared.checkpoint import MANIFEST, write_checkpoint
from gobelin.shared.data import Source
from gobelin.shared.errors import DatasetError
from gobelin.shared.evaluation.benchmarks import Benchmark
from gobelin.shared.files import write_atomic, write_json
from gobelin.shared.recipe import Recipe

Rows = dict[str, dict[str, float]]  # of one seed: a model's figures by column
CACHE = Path(".cache")
BRIEF: dict[str, Any] = {"shots": (), "shifted_samples": 0, "resamples": 500}


@dataclass(frozen=True)
class Run:
    """One seed of an example."""

    seed: int
    out: Path  # where the first seed leaves its model and report
    first: bool  # whether this is it
    fast: bool  # the smallest form: that it works, not how well


@dataclass(frozen=True)
class Place:
    """A region: its data, its consensus and what it compares with."""

    name: str
    consensus: Consensus
    given: Given
    region: Region
    evaluation: EvaluationSettings
    general: Sequence[Benchmark] = ()

    def build(
        self, run: Run, changes: Mapping[str, Any], keep: bool = False
    ) -> tuple[SovereignModel, Report]:
        """One build and its report; with `keep` the first seed's is signed and written."""
        given = {"release": "-", "data": "-", "out": "-", "unverified": True, "region": self.name}
        told = {**given, "seed": run.seed, "compute": {"device": "cpu"}, **changes}
        settings = BuildSettings.model_validate(told)
        model = make_model(self.consensus, self.given, settings)
        again = repeater(self.consensus, self.given, settings)
        report = assess(
            model,
            self.consensus,
            self.region,
            self.evaluation,
            again=again,
            general=self.general,
        )
        if keep and run.first:
            told = with_report(model, report, report_files(report))
            told = replace(told, files={**told.files, CARD: card_of(told).encode()})
            write_package(run.out / "model", told, region_key(run.out / "home"))
        return model, report


def figures_of(report: Report) -> dict[str, float]:
    """The columns of a build: its headline, its leads, and what it lost."""
    mine = report.found[0]
    told = {name: figure.value for name, figure in mine.figures.items()}
    told |= {f"over {role}": gain.value for role, gain in report.gains.items()}
    if report.general:
        told["points lost"] = report.figures["points_lost_general"].value
    if mine.calibration is not None:
        told["ECE"] = mine.calibration.ece.value
    return told


def baselines_of(report: Report) -> Rows:
    """The rows of what a build is compared with and does not depend on its method."""
    return {
        found.title: {name: figure.value for name, figure in found.figures.items()}
        for found in report.found
        if found.role not in (SOVEREIGN, "scratch")
    }


def trained(
    folder: Path,
    recipe: Recipe,
    members: Mapping[str, Source[Any]],
    rounds: int,
    local_steps: int,
    seed: int,
    **options: Any,
) -> Path:
    """A checkpoint of a federation in this process (of one member: of it alone), kept in .cache.

    Empty the folder when training changes.
    """
    if not (folder / MANIFEST).is_file():
        vector = federate_in_process(recipe, members, rounds, local_steps, seed, **options)
        facts = {"federation": "example", "round": rounds, "seed": seed}
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
        if options.fast or options.workers < 2:
            one_thread()
            found = [run(each) for each in runs]
        else:
            with ProcessPoolExecutor(options.workers, get_context("spawn"), one_thread) as pool:
                found = list(pool.map(run, runs))
        table = table_of(found, columns)
        seconds = time.perf_counter() - started
        note = f"seeds {', '.join(map(str, seeds))}; mean ± standard deviation over them"
        write_atomic(options.out / "table.md", f"{table}\n{note}\n".encode())
        write_json(options.out / "results.json", {"seeds": seeds, "rows": found})
        print(f"{table}\n{note}; {seconds:.0f} s")
        if (options.out / "model").is_dir():
            page = options.out / "model" / "report.html"
            print(f"the model of seed {seeds[0]}, signed: {options.out / 'model'}; report: {page}")


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

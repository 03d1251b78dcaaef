"""What measurements share: the machine, workers, spread over seeds, where results go."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter
from pydantic_core import to_json

from examples.processes import one_thread
from gobelin.shared.files import write_atomic, write_json

RESULTS = Path(__file__).parent / "results"
KEEP = "GOBELIN_BENCH_JOBS"

Job = TypeVar("Job")
Found = TypeVar("Found")


def run_all(
    run: Callable[[Job], Found], jobs: Sequence[Job], workers: int | None, chunk: int = 1
) -> dict[Job, Found]:
    """What each job found; `workers` processes of one thread each take `chunk` jobs at a time.

    A study of hours is run in pieces: where $GOBELIN_BENCH_JOBS names a folder, what a job found is
    kept there, and a job that is there already is not run again. Empty it when the code changes.
    """
    kept = Kept(run)
    found = {job: kept[job] for job in jobs if job in kept}
    rest = [job for job in jobs if job not in found]
    parts = [rest[i : i + chunk] for i in range(0, len(rest), chunk)]
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        coming = {pool.submit(_each, run, part): part for part in parts}
        try:
            for future in as_completed(coming):
                for job, outcome in zip(coming[future], future.result(), strict=True):
                    kept[job] = found[job] = outcome
        except BaseException:  # nobody would hear of it before the last job has ended
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {job: found[job] for job in jobs}


class Kept(Generic[Job, Found]):
    """What jobs have found so far, a JSON file each; nothing unless a folder is named."""

    def __init__(self, run: Callable[[Job], Found]) -> None:
        self.folder = Path(os.environ[KEEP]) if KEEP in os.environ else None
        module = sys.modules[run.__module__].__spec__  # of `python -m`, too, whose name is __main__
        self.name = f"{module.name if module else run.__module__}.{run.__qualname__}"
        self.run = run

    def __contains__(self, job: Job) -> bool:
        return self.folder is not None and self._file(self.folder, job).exists()

    def __getitem__(self, job: Job) -> Found:
        assert self.folder is not None
        form: TypeAdapter[Found] = TypeAdapter(get_type_hints(self.run)["return"])
        return form.validate_json(self._file(self.folder, job).read_bytes())

    def __setitem__(self, job: Job, found: Found) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file(self.folder, job), to_json(found, inf_nan_mode="constants"))

    def _file(self, folder: Path, job: Job) -> Path:
        digest = hashlib.sha256(f"{self.name} {job!r}".encode()).hexdigest()
        return folder / f"{self.name}-{digest[:16]}.json"


def _each(run: Callable[[Job], Found], jobs: Sequence[Job]) -> list[Found]:
    return [run(job) for job in jobs]


def machine() -> str:
    """The machine in words: processor, cores, memory, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = platform.python_version()
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, "
        f"Python {python}, torch {torch.__version__}"
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (of the sample), least and greatest."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
    }


def write_result(name: str, values: Mapping[str, Any]) -> Path:
    """Write bench/results/NAME.json with the machine named."""
    path = RESULTS / f"{name}.json"
    write_json(path, {**values, "machine": machine()})
    return path

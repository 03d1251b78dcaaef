"""What measurements share: the machine, workers, spread over seeds, where results go."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from examples.processes import one_thread
from gobelin.shared.files import write_json

RESULTS = Path(__file__).parent / "results"

Job = TypeVar("Job")
Found = TypeVar("Found")


def run_all(
    run: Callable[[Job], Found], jobs: Sequence[Job], workers: int | None, chunk: int = 1
) -> dict[Job, Found]:
    """What each job found; `workers` processes of one thread each take `chunk` jobs at a time."""
    with ProcessPoolExecutor(workers, get_context("spawn"), one_thread) as pool:
        return dict(zip(jobs, pool.map(run, jobs, chunksize=chunk), strict=True))


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

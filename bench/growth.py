"""What grows while a federation runs: memory, descriptors and threads of processes, bytes on disk.

A process is looked at from its start to its end, a **life**. Slopes are the median over all pairs
of looks (Theil–Sen; Sen 1968, doi:10.1080/01621459.1968.10480934), which neither a collection of
garbage nor a step at the start can move.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.faults.inject.process_names import process_name

MB = 2**20
MOST = 600  # looks at one life that slopes are taken over: pairs are quadratic


@dataclass(frozen=True)
class Look:
    """One look at one process."""

    at: float  # Unix time
    round: int  # sealed by then
    process: str
    pid: int
    rss: int  # bytes
    fds: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """What became of one process after its warm-up."""

    process: str
    hours: float
    rounds: int
    rss_mb: tuple[float, float]  # medians of the first and of the last tenth
    rss_slope_mb_h: float
    rss_bytes_a_round: float
    fds: tuple[int, int]
    threads: tuple[int, int]


def look_at(processes: Iterable[psutil.Process], sealed: int) -> list[Look]:
    """The federation's own among `processes`, as they are now."""
    looks = []
    for process in processes:
        try:
            with process.oneshot():
                if name := process_name(process.cmdline()[1:]):
                    facts = process.memory_info().rss, process.num_fds(), process.num_threads()
                    looks.append(Look(time.time(), sealed, name, process.pid, *facts))
        except psutil.Error:  # it has just ended
            continue
    return looks


def growth_of(looks: Iterable[Look], warmup_rounds: int, least_rounds: int) -> list[Growth]:
    """Of every life that saw `least_rounds` rounds sealed after its first `warmup_rounds`."""
    lives: dict[tuple[str, int], list[Look]] = defaultdict(list)
    for look in looks:
        lives[look.process, look.pid].append(look)
    found = []
    for (process, _), life in sorted(lives.items()):
        warm = [look for look in life if look.round >= life[0].round + warmup_rounds]
        if warm and warm[-1].round - warm[0].round >= least_rounds:
            found.append(_growth(process, warm[:: -(-len(warm) // MOST)]))
    return found


def _growth(process: str, life: Sequence[Look]) -> Growth:
    tenth = max(1, len(life) // 10)
    first, last = life[:tenth], life[-tenth:]
    hours = [(look.at - life[0].at) / 3600 for look in life]
    rss = [look.rss for look in life]

    def both(of: str) -> tuple[int, int]:
        before, after = (int(np.median([getattr(one, of) for one in end])) for end in (first, last))
        return before, after

    before, after = both("rss")
    return Growth(
        process=process,
        hours=hours[-1],
        rounds=life[-1].round - life[0].round,
        rss_mb=(before / MB, after / MB),
        rss_slope_mb_h=slope(hours, rss) / MB,
        rss_bytes_a_round=slope([look.round for look in life], rss),
        fds=both("fds"),
        threads=both("threads"),
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The median slope over all pairs with different x; 0 where there are none."""
    one, other = np.triu_indices(len(x), 1)
    across = np.asarray(x, float)[other] - np.asarray(x, float)[one]
    up = np.asarray(y, float)[other] - np.asarray(y, float)[one]
    apart = across != 0
    return float(np.median(up[apart] / across[apart])) if apart.any() else 0.0


def disk_use(folder: Path) -> dict[str, list[int]]:
    """Bytes that the disk gives to each entry of a home, and files; Flower's folder one by one."""
    used: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for place, _, files in os.walk(folder):  # which passes over what goes meanwhile
        for path in (Path(place) / file for file in files):
            with contextlib.suppress(FileNotFoundError):
                size = path.lstat().st_blocks * 512
                parts = path.relative_to(folder).parts
                name = "/".join(parts[: 2 if parts[0] == "flower" else 1])
                entry = used[name.removesuffix("-wal").removesuffix("-shm")]
                entry[0], entry[1] = entry[0] + size, entry[1] + 1
    return dict(used)


def per_round(disk: Sequence[tuple[int, Mapping[str, Sequence[int]]]]) -> dict[str, list[float]]:
    """Bytes and files a round of every entry, from (round, use); entries that stay are left out."""
    rounds = [number for number, _ in disk]
    names = sorted({name for _, use in disk for name in use})
    grown = {
        name: [slope(rounds, [use.get(name, (0, 0))[of] for _, use in disk]) for of in (0, 1)]
        for name in names
    }
    return {name: both for name, both in grown.items() if any(both)}

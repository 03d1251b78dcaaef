"""How much memory a process holds."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

PEAK_PER_MB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB


def peak_mb() -> float:
    """The most that this process has had resident so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PEAK_PER_MB


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and of all that it has started; None but on Linux."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except (OSError, IndexError, ValueError):
        return None
    size = pages * os.sysconf("SC_PAGE_SIZE")
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:  # it has ended meanwhile, or the kernel does not tell
            continue
        size += sum(resident_bytes(int(child)) or 0 for child in children)
    return size

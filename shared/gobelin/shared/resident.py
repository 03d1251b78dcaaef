"""How much memory a process holds, by what Linux tells; elsewhere nobody knows."""

from __future__ import annotations

import os
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and of all that it has started; None where it is not told."""
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

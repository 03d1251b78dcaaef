"""The machine as it is now: load, memory, GPUs, disk; read from the system, without a library."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

from gobelin.client.overview import GpuView
from gobelin.shared.files import below

MEMINFO = Path("/proc/meminfo")
QUERY = ("name", "utilization.gpu", "memory.used", "memory.total")
WAIT_S = 3.0  # for nvidia-smi


def load() -> float | None:
    """Processes that want to run, mean over a minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory in use, and of all; None where the system does not say (proc(5))."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None, None
    return total - free, total


def gpus() -> tuple[GpuView, ...]:
    """NVIDIA's, as nvidia-smi tells of them; none where there is no such command."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    asked = [command, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=WAIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> tuple[GpuView, ...]:
    """Of nvidia-smi's lines: name, percent, MiB, MiB; one that says anything else is left out."""
    found = []
    for line in text.splitlines():
        name, *figures = (part.strip() for part in line.rsplit(",", 3))
        try:
            busy, used, total = (int(figure) for figure in figures)
        except ValueError:  # "[N/A]"
            continue
        found.append(GpuView(name, busy / 100, used << 20, total << 20))
    return tuple(found)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below; a file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in below(folder):
        with contextlib.suppress(OSError):  # gone meanwhile
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                seen[(found.st_dev, found.st_ino)] = found.st_blocks * 512
    return sum(seen.values())

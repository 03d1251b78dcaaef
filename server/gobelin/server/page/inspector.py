"""The inspector: has every release looked into once, by another process, and keeps the verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gobelin.server.home import AggregatorHome
from gobelin.shared.shelf import STATEMENT

MOST = 12  # releases looked into by one process: the newest come first
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Map:
    """Where public samples lie in the plane of a release's two main directions."""

    release: str
    points: tuple[tuple[float, float, int], ...]  # x and y in −1 … 1, and the class
    classes: tuple[str, ...]
    why: str = ""  # there is none


class Inspector:
    """Verdicts on releases by name, and the newest one's map; `look` starts what is missing."""

    def __init__(self, home: AggregatorHome) -> None:
        self._home = home
        self._stamps: dict[str, int] = {}  # of releases that were looked into
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self.verdicts: dict[str, tuple[str, str]] = {}
        self.map: Map | None = None

    def look(self, names: Iterable[str]) -> None:
        """Have the releases of these names, newest first, looked into, if they were not yet."""
        wanted = []
        for name in names:
            try:
                stamp = (self._home.releases / name / STATEMENT).stat().st_mtime_ns
            except OSError:
                continue
            if self._stamps.get(name) != stamp:
                wanted.append((name, stamp))
        with self._lock:
            if not wanted or (self._thread is not None and self._thread.is_alive()):
                return
            some = dict(wanted[:MOST])
            self._thread = threading.Thread(
                target=self._run, args=(some,), name="inspector", daemon=True
            )
            self._thread.start()

    def _run(self, wanted: dict[str, int]) -> None:
        command = [sys.executable, "-m", "gobelin.server.page.inspection"]
        self._process = subprocess.Popen(
            [*command, str(self._home.folder), *wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.nice(10),  # rounds come first
        )
        timer = threading.Timer(PATIENCE_S, self._process.kill)
        timer.daemon = True
        timer.start()
        with self._process as process:
            for line in process.stdout or ():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._hear(json.loads(line))
        timer.cancel()
        self._stamps |= wanted  # also where it died of one: it is not tried for ever

    def _hear(self, told: dict[str, Any]) -> None:
        if "map" in told:
            points = tuple((float(x), float(y), int(c)) for x, y, c in told["points"])
            self.map = Map(told["map"], points, tuple(told["classes"]), told.get("why", ""))
        else:
            self.verdicts[told["release"]] = (told["verified"], told["found"])

    def close(self) -> None:
        """End the process that looks."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

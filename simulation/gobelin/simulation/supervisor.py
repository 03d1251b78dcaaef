"""Keeps the simulation engine's process alive until the last round is sealed."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gobelin.server.supervisor import Child, reported
from gobelin.shared.errors import ConfigError, RoundError, StateError
from gobelin.shared.locks import sole_owner
from gobelin.shared.logs import kept
from gobelin.shared.signals import stop_on_signals
from gobelin.simulation.study import StudyHome

TICK_S = 0.2
SHORT = Path("/tmp")  # noqa: S108 - a folder in it is made anew for us alone, or not at all


def require_ray() -> None:
    """Raise ConfigError unless the simulation engine is installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "a simulation needs Ray, which is not installed", "pip install 'gobelin[simulation]'"
        )


def scratch_of(study: Path) -> Path:
    """Where Ray keeps its sockets and logs while a study runs.

    Short, as paths of sockets have to be, and always the same, so that what a killed one has left
    is found by the next.
    """
    return SHORT / f"gobelin-{hashlib.sha256(str(study.resolve()).encode()).hexdigest()[:12]}"


@contextmanager
def made_anew(folder: Path) -> Iterator[Path]:
    """An empty folder that nobody else can look into, for the time of a block.

    Raises StateError where it cannot be made.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise StateError(
            f"{folder} cannot be made anew: {error.strerror}", "remove it, or ask who owns it to"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Supervisor:
    """Runs a study in a process of its own, which may die at any moment, and passes on events."""

    def __init__(self, home: StudyHome, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._home = home.aggregator
        self._folder = home.folder
        self._release = home.last_release()
        self._on_event = on_event
        self._offset = self._home.events()[1]  # events from before this start are history
        self._finished = False
        self._failure: dict[str, Any] | None = None
        self._stuck = ""  # what a round waits for in vain: no simulated node comes back

    def run(self) -> None:
        """Run the rounds that are not sealed yet; raises GobelinError or Stopped."""
        if self._release.exists():
            return
        self._home.flower.mkdir(exist_ok=True)
        with (
            sole_owner(self._home.folder),
            kept(self._home.log_file),
            stop_on_signals(),
            made_anew(scratch_of(self._folder)) as scratch,
        ):
            arguments = (str(self._folder), str(scratch))
            command = [sys.executable, "-P", "-m", "gobelin.simulation", *arguments]
            engine = Child("simulation", command, self._home)
            try:
                engine.start()
                while not self._ended(engine):
                    time.sleep(TICK_S)
            finally:
                engine.stop()
                self._pass_on_events()

    def _ended(self, engine: Child) -> bool:
        """Whether the last round is sealed; starts an engine that died before that again."""
        alive = engine.pid is not None
        self._pass_on_events()
        if self._stuck:
            remedy = (
                f"see {engine.log} for what failed, or --set rounds.min_members in a new --home"
            )
            raise RoundError(f"{self._stuck}, and nobody else will", remedy)
        if alive:
            return False
        if self._finished:
            return True
        if self._failure is not None:
            raise reported(self._failure)
        self._on_event({"event": "restarting", "process": engine.name})
        engine.start()
        return False

    def _pass_on_events(self) -> None:
        events, self._offset = self._home.events(self._offset)
        for event in events:
            match event["event"]:
                case "finished":
                    self._finished = True
                case "failed":
                    self._failure = event
                case "waiting":
                    self._stuck = event["reason"]
            self._on_event(event)

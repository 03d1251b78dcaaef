"""`gobelin aggregator up`: keeps the engine's processes alive until the last round is sealed."""

from __future__ import annotations

import contextlib
import ctypes
import math
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gobelin.server.children import (
    Ports,
    child_environment,
    page_command,
    service_command,
    superexec_command,
    superlink_command,
)
from gobelin.server.control import Control
from gobelin.server.home import AggregatorHome
from gobelin.shared.address import format_address
from gobelin.shared.errors import EngineError, GobelinError, PortInUseError
from gobelin.shared.files import PRIVATE, sweep, write_atomic, write_json
from gobelin.shared.garbage import collected
from gobelin.shared.locks import is_owned, sole_owner
from gobelin.shared.logs import Relay, kept
from gobelin.shared.notify import alive, ready, stopping
from gobelin.shared.pages.serving import require_page
from gobelin.shared.signals import stop_on_signals

READY_S = 180.0  # for the SuperLink to answer: a machine that is busy takes long to import it
TICK_S = 0.5
GONE_S = 3.0  # without a ServerApp: a moment for one that has ended well to be reported as such
LAST_WORDS_S = 1.0  # of a child that has ended; one that it has started may still hold its output
RESTARTS = 5  # of children within RESTART_WINDOW_S before the supervisor gives up
RESTART_WINDOW_S = 300.0

Answer = TypeVar("Answer")


class Child:
    """One process of the engine: started, watched, restarted, ended by its own process id."""

    def __init__(
        self, name: str, command: list[str], home: AggregatorHome, needed: bool = True
    ) -> None:
        """One that is not `needed` is left alone where it cannot live: rounds go on without."""
        self.name = name
        self.needed = needed
        self.abandoned = False
        self._command = command
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: Relay | None = None
        self._started: list[float] = []
        self._starts = 0
        self._since = 0.0  # Unix seconds

    @property
    def log(self) -> Path:
        """Where its output goes, with that of the others."""
        return self._home.log_file

    def start(self) -> None:
        """Start it; raises EngineError when it has died too often of late."""
        now = time.monotonic()
        self._started = [t for t in self._started if now - t < RESTART_WINDOW_S] + [now]
        if len(self._started) > RESTARTS and not self.needed:
            self.abandoned = True
            return
        if len(self._started) > RESTARTS:
            raise EngineError(f"{self.name} died {RESTARTS} times", f"see {self.log}")
        self._starts, self._since = self._starts + 1, time.time()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment(self._home),
            start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout is not None  # it is a pipe
        self._relay = Relay(self.name, self._process.stdout)
        self._relay.start()

    @property
    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    def facts(self) -> dict[str, Any]:
        """What who watches the home may know of it."""
        restarts = self._starts - 1
        return {"name": self.name, "pid": self.pid, "started": self._since, "restarts": restarts}

    def stop(self, grace_s: float = 5.0) -> None:
        """Ask it to end, then end it; its last words are heard."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._relay is not None:
            self._relay.join(LAST_WORDS_S)


class Supervisor:
    """Runs SuperLink, superexec, our own service, and the run whose ServerApp is ours."""

    def __init__(self, home: AggregatorHome, on_event: Callable[[dict[str, Any]], None]) -> None:
        network = home.settings().network
        self._home = home
        self._on_event = on_event
        require_free(network.local, network.port)
        require_free(network.local, network.service_port, "network.listen / network.service_port")
        self._ports = Ports(format_address(network.local, network.port), free_port())
        self._address = format_address(network.host, network.port)
        self._service_address = format_address(network.host, network.service_port)
        self._superlink = Child("superlink", superlink_command(home, self._ports), home)
        self._superexec = Child("superexec", superexec_command(home, self._ports), home)
        self._service = Child("service", service_command(home), home)
        self._children: tuple[Child, ...] = (self._superlink, self._superexec, self._service)
        self._page: dict[str, str] = {}
        if (page := home.settings().page).port is not None:
            require_page()
            require_free(page.host, page.port, "page.host / page.port")
            self._children += (Child("page", page_command(home), home, needed=False),)
            self._page = {"page": f"http://{format_address(page.host, page.port)}"}
        self._link_is_made = home.flower / "link.made"
        self._offset = home.events()[1]  # events from before this start are history
        self._failure: dict[str, Any] | None = None
        self._roster_seen = 0
        self._served_at: float | None = None  # when the run's ServerApp was last seen at work

    def run(self) -> None:
        """Supervise until the federation's last round is sealed; raises GobelinError or Stopped."""
        home = self._home
        home.flower.mkdir(parents=True, exist_ok=True)
        with (
            sole_owner(home.folder),
            kept(home.log_file),
            stop_on_signals(),
            collected(),
        ):
            sweep(home.folder)
            secret = home.flower / "superexec.secret"
            write_atomic(secret, secrets.token_hex(32).encode(), PRIVATE)
            try:
                for child in self._children:
                    self._start(child)
                self._note_children()
                control = self._wait_ready()
                with contextlib.closing(control):
                    self._watch(control)
            finally:
                stopping()
                for child in reversed(self._children):
                    child.stop()
                self._pass_on_events()

    def _wait_ready(self) -> Control:
        give_up = time.monotonic() + READY_S
        while time.monotonic() < give_up:
            self._revive()
            try:
                with socket.create_connection(("127.0.0.1", self._ports.control), 1):
                    control = Control(self._home, self._ports)
            except OSError:
                time.sleep(0.1)
                continue
            self._insist(control.answer)
            write_atomic(self._link_is_made, b"")
            return control
        raise EngineError("the SuperLink did not answer", f"see {self._superlink.log}")

    def _watch(self, control: Control) -> None:
        self._insist(lambda: self._sync_roster(control))
        run_id = self._insist(control.start_run)
        pids = {child.name: child.pid for child in self._children}
        addresses = {"address": self._address, "service_address": self._service_address}
        self._on_event({"event": "up", **addresses, **self._page, **pids})
        ready(f"nodes reach the aggregator at {self._address}")
        while True:
            self._pass_on_events()
            self._revive()
            with contextlib.suppress(httpx.HTTPError):  # the SuperLink is being restarted
                self._sync_roster(control)
                status, sub_status = control.run_status(run_id)
                if status == "finished":
                    self._pass_on_events()
                    if sub_status == "completed":
                        return
                    run_id = self._restart_run(control, sub_status)
                elif self._serverapp_died():
                    run_id = self._restart_run(control, "died")
                alive()  # the children run, and the SuperLink has just answered
            time.sleep(TICK_S)

    def _start(self, child: Child) -> None:
        """Start a child; the SuperLink with a new database, until one has answered.

        One that is killed while it makes its tables leaves a database that none can open.
        """
        if child is self._superlink and not self._link_is_made.exists():
            for file in self._home.flower.glob("link.db*"):
                file.unlink()
        child.start()

    def _note_children(self) -> None:
        """Keep who runs where pages and `status` see it; it is only looked at."""
        told = {"processes": [child.facts() for child in self._children]}
        write_json(self._home.processes_file, told, flush=False)

    def _revive(self) -> None:
        """Start children that have died again; a ServerApp ends with its superexec."""
        for child in self._children:
            if child.pid is None and not child.abandoned:
                self._on_event({"event": "restarting", "process": child.name})
                self._start(child)
                self._note_children()
                if child is self._superexec:
                    self._served_at = -math.inf

    def _insist(self, request: Callable[[], Answer]) -> Answer:
        """Its answer, also where the SuperLink dies over it; raises EngineError after READY_S."""
        give_up = time.monotonic() + READY_S
        while True:
            try:
                return request()
            except httpx.HTTPError as error:
                if time.monotonic() >= give_up:
                    raise EngineError(
                        f"the SuperLink refused what it was asked ({type(error).__name__})",
                        f"see {self._superlink.log}",
                    ) from None
                time.sleep(TICK_S)
                self._revive()

    def _serverapp_died(self) -> bool:
        """Whether the run's ServerApp was at work and is gone; Flower would take a minute to see.

        It holds the lock of the rounds. One that dies alone before it has it is left to Flower.
        """
        if is_owned(self._home.rounds):
            self._served_at = time.monotonic()
        return self._served_at is not None and time.monotonic() - self._served_at > GONE_S

    def _restart_run(self, control: Control, sub_status: str) -> int:
        """Start the run again after its ServerApp died; raises what the ServerApp reported."""
        if self._failure is not None:
            raise reported(self._failure)
        self._on_event({"event": "restarting", "process": "serverapp", "reason": sub_status})
        run_id = self._insist(control.start_run)
        self._served_at = None
        return run_id

    def _sync_roster(self, control: Control) -> None:
        """Register newly admitted nodes while running; a look at the file's time is enough."""
        file = self._home.roster_file
        changed = file.stat().st_mtime_ns if file.exists() else 0
        if changed != self._roster_seen:
            control.sync_roster(self._home.roster())
            self._roster_seen = changed

    def _pass_on_events(self) -> None:
        events, self._offset = self._home.events(self._offset)
        for event in events:
            if event["event"] == "failed":
                self._failure = event
            self._on_event(event)


def reported(failure: Mapping[str, Any]) -> GobelinError:
    """The error that a `failed` event tells of."""
    error = GobelinError(str(failure["what"]), str(failure["remedy"]))
    error.code, error.exit_code = failure["error"], failure["exit_code"]
    return error


def free_port() -> int:
    """A TCP port that is free on loopback right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, settings: str = "network.listen / network.port") -> None:
    """Raise PortInUseError unless `host:port` can be bound; `settings` say which it is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                f"stop what uses it, or change {settings} in federation.toml",
            ) from None


def _die_with_parent() -> None:
    """In the child, before exec: end when the supervisor is killed (Linux; elsewhere no-op)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)

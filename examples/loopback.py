"""A whole federation on this machine: the real commands, one process each, over loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOBELIN = Path(sys.executable).parent / "gobelin"


class CommandFailed(RuntimeError):
    """A gobelin command ended with an error; the text is its one line."""


def gobelin(*arguments: str | Path) -> str:
    """Run one gobelin command to its end and return what it printed."""
    done = subprocess.run(
        [GOBELIN, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandFailed(done.stderr.strip())
    return done.stdout


@dataclass
class Loopback:
    """One aggregator and its nodes under `folder`; `members` maps names to private data."""

    folder: Path
    members: Mapping[str, Path]
    recipe: str = "toy"
    rounds: int = 2
    local_steps: int = 5
    seed: int = 0
    options: Sequence[str] = ()  # more of `gobelin aggregator init`
    modalities: Mapping[str, str] = field(default_factory=dict)  # of members' data, where several
    threads: int = 1  # of each node
    environment: Mapping[str, str] = field(default_factory=dict)  # more of every process's
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def aggregator_home(self) -> Path:
        """The aggregator's home folder."""
        return self.folder / "aggregator"

    @property
    def release(self) -> Path:
        """Where the last release will lie."""
        return self.aggregator_home / "releases" / f"release-{self.rounds:05d}"

    def node_home(self, member: str) -> Path:
        """A node's home folder."""
        return self.folder / "nodes" / member

    def found(self) -> None:
        """Found the federation and its nodes, and admit them."""
        founded = json.loads(
            gobelin(
                *("aggregator", "init", "--home", self.aggregator_home, "--name", "loopback"),
                *("--recipe", self.recipe, "--address", "127.0.0.1:0", "--json"),
                *("--rounds", str(self.rounds), "--local-steps", str(self.local_steps)),
                *("--quorum", "1", "--min-members", "1", "--seed", str(self.seed)),
                *self.options,
            )
        )
        for member, data in self.members.items():
            self.found_node(member, data, founded["address"])
            key = self.node_home(member) / "node.pub"
            gobelin("aggregator", "admit", "--home", self.aggregator_home, "--member", member, key)

    def found_node(self, member: str, data: Path, address: str) -> None:
        """Found one node, without admitting it."""
        told = self.modalities.get(member)
        gobelin(
            *("node", "init", "--home", self.node_home(member), "--member", member),
            *("--aggregator", address, "--ca", self.aggregator_home / "tls" / "ca.pem"),
            *("--data", data, "--threads", str(self.threads)),
            *("--order", "plan"),  # so that one process can repeat it
            *(("--modality", told) if told else ()),
        )

    def start_aggregator(self) -> subprocess.Popen[bytes]:
        """Start `gobelin aggregator up`; its output goes to aggregator.log."""
        return self._start("aggregator", "aggregator", "up", "--home", self.aggregator_home)

    def restart_ended(self, on_exit: Callable[[str, int], None]) -> bool:
        """Start what has ended again, as an init system would; True once the aggregator ended well.

        `on_exit` hears of a process that neither ended well nor by kill −9, and its exit code.
        """
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code not in (None, 0, -signal.SIGKILL):
                on_exit(name, code)
            if name == "aggregator":
                if code == 0:
                    return True
                if code is not None:
                    self.start_aggregator()
            elif code:
                self.start_node(name)
        return False

    def start_node(self, member: str) -> subprocess.Popen[bytes]:
        """Start `gobelin node run`; its output goes to MEMBER.log."""
        return self._start(member, "node", "run", "--home", self.node_home(member))

    def start(self) -> None:
        """Start everything."""
        self.start_aggregator()
        for member in self.members:
            self.start_node(member)

    def _start(self, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.threads),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [GOBELIN, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        return (self.folder / f"{name}.log").read_text()

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The aggregator's events so far, all or of one kind."""
        file = self.aggregator_home / "events.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        told = [line for line in lines if kind in line]  # cheaper than parsing them all
        rows = map(json.loads, told)
        return [row for row in rows if not kind or row["event"] == kind]

    def wait_for(self, kind: str, count: int = 1, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait until the aggregator has recorded `count` events of a kind; returns the last."""
        give_up = time.monotonic() + timeout_s
        while len(rows := self.events(kind)) < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"no {kind} within {timeout_s} s:\n{self.log('aggregator')}")
            for name, process in self.processes.items():
                if process.poll():  # ended, and not well
                    raise CommandFailed(self.log(name))
            time.sleep(0.1)
        return rows[count - 1]

    def wait(self, timeout_s: float = 600.0) -> None:
        """Wait until the aggregator has sealed the last round and the nodes have heard of it."""
        if self.processes["aggregator"].wait(timeout_s):
            raise CommandFailed(self.log("aggregator"))
        for member in self.members:
            self.processes[member].wait(30)

    def kill(self, name: str) -> None:
        """kill −9 one process."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def stop(self) -> None:
        """End whatever still runs, by process id."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Loopback:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

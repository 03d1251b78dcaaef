"""A federation of real processes that are killed one after the other, and what must hold then."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from examples.in_process import federate_in_process
from examples.loopback import Loopback
from gobelin.client.home import NodeSettings, found_node
from gobelin.server.founding import Charter, admit_node
from gobelin.server.founding import found as found_federation
from gobelin.server.home import AggregatorHome
from gobelin.server.merge import Merger
from gobelin.server.outer import make_outer
from gobelin.server.rules import make_rule
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import below, is_unfinished
from gobelin.shared.recipe import load_recipe
from gobelin.shared.seeds import derive_seed
from tests.faults.points import OUTSIDE, Life, Plan, Point

INJECT = Path(__file__).parent / "inject"
MEMBERS = ("north", "south")
IMAGES = 64
STEPS = 3
SEED = 7
ROUNDS: dict[str, Any] = {  # every kind of state that a kill could lose or apply twice
    "codec": "topk",  # residuals
    "broadcast": "int8",  # a base made of steps, and what the broadcast owes
    "cross_node": True,  # moments, a round late
    "local_steps": STEPS,
    "quorum": 1.0,  # whoever is killed is waited for
    "release_every": 2,
}
OUTER: dict[str, Any] = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}
RULE = "centered_clipping"  # remembers the last aggregate
HANG_S = 240.0  # without a sealed round or a reached point, a federation has come to a standstill
END_S = 120.0  # for nodes and the engine's processes to end, after the aggregator has
FAREWELL_S = 15.0  # for nodes to hear that the federation has finished
SKIP_ROUNDS = 4  # sealed while a point is first in line: nobody will come by
TICK_S = 0.05


def found(folder: Path, rounds: int, members: Sequence[str] = MEMBERS, **changed: Any) -> Loopback:
    """Found a federation that others are copied from, on a port of its own.

    `changed` are settings of its rounds that differ from the gauntlet's.
    """
    net = Loopback(folder, {name: folder / "data" / name for name in members}, rounds=rounds)
    charter = Charter(
        name="gauntlet",
        recipe="toy",
        address="127.0.0.1:0",
        seed=SEED,
        rounds={**ROUNDS, "rounds": rounds, **changed},
        outer=OUTER,
        aggregation={"rule": RULE},
    )
    founded = found_federation(net.aggregator_home, charter)
    for name, data in net.members.items():
        write_idx(data, private_images(name), torch.zeros(IMAGES, dtype=torch.int64))
        settings = NodeSettings(
            member=name,
            node=name,
            aggregator=founded["address"],
            data={"path": str(data.resolve())},
            compute={"threads": 1, "device": "cpu"},  # the same bytes in every federation
        )
        home = found_node(net.node_home(name), settings, Path(founded["ca"]))
        admit_node(net.aggregator_home, home.public_key_file, name, name)
    return net


def private_images(member: str) -> Tensor:
    """A member's data: noise, uint8 (N, 1, 28, 28)."""
    rng = np.random.default_rng(derive_seed(SEED, "images", member))
    return torch.from_numpy(rng.integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8))


def computed_here(rounds: int, members: Sequence[str] = MEMBERS) -> str:
    """Digest of the consensus of the same federation, computed in this process."""
    torch.set_num_threads(1)
    sources = {name: MemorySource(private_images(name)) for name in members}
    return federate_in_process(
        load_recipe("toy"),
        sources,
        rounds,
        STEPS,
        SEED,
        make_outer(**OUTER),
        codec=ROUNDS["codec"],
        broadcast=ROUNDS["broadcast"],
        cross_node=ROUNDS["cross_node"],
        merger=Merger(make_rule(RULE)),
    ).digest


@dataclass(frozen=True)
class Sealed:
    """What must be the same of a round in every federation of the same charter."""

    vector_digest: str
    contributions: tuple[tuple[str, str], ...]  # (node, digest of its delta), in order


def read_sealed(home: Path, number: int) -> Sealed:
    """A round as an aggregator's home has it; raises GobelinError where it is not whole."""
    checkpoint = read_checkpoint(home / "rounds" / f"round-{number:05d}")
    rows = checkpoint.facts["contributions"]
    made = tuple((row["node"], row["delta_digest"]) for row in rows)
    return Sealed(checkpoint.vector.digest, made)


def sealed_in(home: Path) -> int:
    """How many rounds an aggregator has sealed."""
    return sum(path.name.startswith("round-") for path in (home / "rounds").iterdir()) - 1


def inheriting(variable: str, value: str) -> list[psutil.Process]:
    """Running processes with such a variable in what they inherited."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(variable) == value
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def unfinished(folder: Path) -> list[Path]:
    """What killed writers have left below a folder."""
    return [path for path in below(folder) if is_unfinished(path)]


@dataclass
class Outcome:
    """How a federation got through its plan."""

    rounds: list[Sealed] = field(default_factory=list)
    sealed_at: list[float] = field(default_factory=list)
    reached: list[Point] = field(default_factory=list)  # in order
    unreached: list[Point] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    exits: Counter[str] = field(default_factory=Counter)  # ends that no kill explains, by status
    seconds: float = 0.0
    longest_s: float = 0.0  # between two signs of progress
    folder: Path = Path()  # where it lies, if it still does


class Gauntlet:
    """One federation, a copy of `template`, under a plan of kills.

    Nodes and the supervisor are started again whenever they end, as an init system would do it;
    everybody else is the supervisor's to restart.
    """

    def __init__(
        self,
        template: Loopback,
        folder: Path,
        plan: Plan,
        *,
        counting: bool = False,
        hang_s: float = HANG_S,
    ) -> None:
        self._faults = folder / "faults"
        self._folder = folder
        self._plan = plan
        self._hang_s = hang_s
        for name in ("reached", "counts", "pids"):
            (self._faults / name).mkdir(parents=True)
        if counting:
            (self._faults / "counting").touch()
        (self._faults / "plan").write_text("\n".join(map(str, plan.points)))
        shutil.copytree(template.aggregator_home, folder / "aggregator")
        shutil.copytree(template.folder / "nodes", folder / "nodes")
        path = os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")])
        environment = {
            "PYTHONPATH": path,
            "GOBELIN_FAULTS": str(self._faults),
            "GOBELIN_FAULTS_ROOT": str(folder),
        }
        self._net = Loopback(
            folder, template.members, rounds=template.rounds, environment=environment
        )
        self._outcome = Outcome()
        self._head = -1
        self._head_sealed = 0  # rounds sealed when it came to be first in line
        self._head_since: float | None = None  # when one more round was sealed

    def run(self, stop: threading.Event | None = None) -> Outcome:
        """Run to the end, to a standstill or until `stop` is set; leaves no process behind."""
        begun = time.monotonic()
        outcome = self._outcome
        with self._net as net:
            net.start()
            try:
                self._survive(stop or threading.Event())
            finally:
                net.stop()
                self._end_the_rest()
        outcome.seconds = time.monotonic() - begun
        self._read_reached()
        self._read_rounds()
        self._read_lives()
        return outcome

    def _survive(self, stop: threading.Event) -> None:
        progress, since = self._progress(), time.monotonic()
        while not stop.is_set():
            self._look_at_plan()
            if self._net.restart_ended(self._exited):
                self._wait_for_nodes()
                return
            now = time.monotonic()
            if self._progress() != progress:
                progress, since = self._progress(), now
            self._outcome.longest_s = max(self._outcome.longest_s, now - since)
            if now - since > self._hang_s:
                self._outcome.violations.append(f"standstill after {progress[0]} rounds")
                return
            time.sleep(TICK_S)

    def _progress(self) -> tuple[int, int]:
        return self._sealed(), sum(1 for _ in (self._faults / "reached").iterdir())

    def _sealed(self) -> int:
        return sealed_in(self._net.aggregator_home)

    def _exited(self, name: str, code: int) -> None:
        self._outcome.exits[f"{name}: {code}"] += 1

    def _wait_for_nodes(self) -> None:
        """Nodes have heard the farewell; those that have not are asked to stop."""
        give_up = time.monotonic() + FAREWELL_S
        nodes = {name: self._net.processes[name] for name in self._net.members}
        while time.monotonic() < give_up and any(p.poll() is None for p in nodes.values()):
            time.sleep(TICK_S)
        for name, process in nodes.items():
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
                if process.returncode not in (0, -signal.SIGTERM):  # perhaps it was just starting
                    self._outcome.violations.append(f"{name} ended with {process.returncode}")

    # ------------------------------------------------------------ the plan

    def _look_at_plan(self) -> None:
        """Kill from outside when that is next; skip what nobody comes by."""
        head = self._head
        while head < 0 or (head < len(self._plan.points) and self._mark(head).exists()):
            head += 1
        if head != self._head:
            self._head, self._head_sealed, self._head_since = head, self._sealed(), None
        if head >= len(self._plan.points):
            return
        point, rounds = self._plan.points[head], self._sealed() - self._head_sealed
        if point.op == OUTSIDE and rounds:
            self._head_since = self._head_since or time.monotonic()
            due = time.monotonic() - self._head_since >= point.n / 1000
            if due and (pid := self._pid(point.process)):
                self._mark(head).touch()
                os.kill(pid, signal.SIGKILL)
        elif rounds >= SKIP_ROUNDS and head < len(self._plan.points) - self._plan.closing:
            self._skip(head)

    def _mark(self, index: int) -> Path:
        return self._faults / "reached" / str(index)

    def _skip(self, index: int) -> None:
        try:
            with self._mark(index).open("x") as file:
                file.write("skipped")
        except FileExistsError:
            pass  # reached after all

    def _pid(self, name: str) -> int | None:
        """Process id of one of the federation's processes, or None while it does not run."""
        file = self._faults / "pids" / name
        written = file.read_text() if file.exists() else ""
        running = [process.pid for process in self._ours() if str(process.pid) == written]
        return running[0] if running else None

    def _ours(self) -> list[psutil.Process]:
        """Processes of this federation."""
        return inheriting("GOBELIN_FAULTS", str(self._faults))

    def _end_the_rest(self) -> None:
        """Whoever is left after a fair time has been left behind."""
        give_up = time.monotonic() + END_S
        while (left := self._ours()) and time.monotonic() < give_up:
            time.sleep(0.5)
        for process in left:
            self._outcome.violations.append(f"left behind: {' '.join(process.cmdline())}")
            process.kill()

    # ------------------------------------------------------------ what became of it

    def _read_reached(self) -> None:
        for index, point in enumerate(self._plan.points):
            mark = self._mark(index)
            reached = mark.exists() and not mark.stat().st_size
            (self._outcome.reached if reached else self._outcome.unreached).append(point)

    def _read_rounds(self) -> None:
        home, outcome = self._net.aggregator_home, self._outcome
        for number in range(1, self._net.rounds + 1):
            try:
                outcome.rounds.append(read_sealed(home, number))
            except GobelinError as error:
                outcome.violations.append(f"round {number}: {error}")
                return
        for row in AggregatorHome(home).events()[0]:  # as an operator reads them: torn lines, too
            if row["event"] == "round_sealed":
                outcome.sealed_at.append(datetime.fromisoformat(row["at"]).timestamp())
        file = self._faults / "renamed"
        times = Counter(file.read_text().splitlines() if file.exists() else [])
        outcome.violations += [f"{path} was made {n} times" for path, n in times.items() if n > 1]
        outcome.violations += [f"left behind: {path.name}" for path in self._unfinished()]
        outcome.violations += self._wrong_release(outcome.rounds[-1].vector_digest)
        for name in ("aggregator", *self._net.members):
            if "Traceback" in self._net.log(name):
                outcome.violations.append(f"an operator of {name} saw a traceback")

    def _unfinished(self) -> list[Path]:
        """What killed writers have left; none where each has been started again since."""
        last = (process.returncode for process in self._net.processes.values())
        if self._plan.closing or -signal.SIGKILL in last:
            return []
        return unfinished(self._folder)

    def _wrong_release(self, last: str) -> list[str]:
        """What is wrong with the final release, which is the last round's consensus."""
        try:
            released = read_checkpoint(self._net.release).vector.digest
        except GobelinError as error:
            return [f"the final release: {error}"]
        return [] if released == last else [f"the final release has another digest: {released}"]

    def _read_lives(self) -> None:
        for file in sorted((self._faults / "counts").iterdir()):
            rows = [line.split(" ", 2) for line in file.read_text().splitlines()]
            operations = [(float(at), op, site) for at, op, site in rows]
            self._outcome.lives.append(Life(file.name.rsplit(".", 1)[0], operations))


@dataclass(frozen=True)
class Difference:
    """What differs between the same rounds of two federations."""

    lost: int = 0  # contributions that should be in and are not
    double: int = 0  # contributions that are in once too often
    what: tuple[str, ...] = ()


def differ(rounds: Sequence[Sealed], reference: Sequence[Sealed]) -> Difference:
    """Where rounds are not the undisturbed ones; they may be fewer."""
    lost, double, what = 0, 0, []
    for number, (got, wanted) in enumerate(zip(rounds, reference, strict=False), 1):
        times = Counter(node for node, _ in got.contributions)
        absent = sorted({node for node, _ in wanted.contributions} - times.keys())
        again = sorted(node for node, n in times.items() if n > 1)
        lost, double = lost + len(absent), double + sum(times[node] - 1 for node in again)
        what += [f"round {number} has lost the contribution of {node}" for node in absent]
        what += [f"round {number} counts {node} {times[node]} times" for node in again]
        if got.contributions != wanted.contributions and not (absent or again):
            what.append(f"round {number} has other contributions: {got.contributions}")
        elif got.vector_digest != wanted.vector_digest:
            what.append(f"round {number} has another digest: {got.vector_digest}")
    return Difference(lost, double, tuple(what))

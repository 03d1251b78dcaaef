"""A long federation whose processes are killed at random, and one beside it that nobody disturbs.

Both are real: SuperLink, superexec, ServerApp, our service, their supervisor and three nodes, over
loopback, of recipe toy, with every kind of state that a kill could lose. In the killed one, once
in some rounds, a process of any kind, drawn by a seed, is ended by kill −9; the supervisor restarts
its children, this script the supervisor and the nodes, as an init system would. The other one tells
what digests must come out, and what grows: only processes that live long have a slope.

Writes bench/results/soak.json. What is known lies in runs/soak, and the same command goes on from
there after any kill of its own; `--fresh` begins anew. `--alone` leaves the killed one out: a slope
wants more rounds than kills do, and half of the machine is saved (`--name soak_alone`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from bench.growth import Growth, Look, disk_use, growth_of, look_at, per_round
from bench.measure import write_result
from examples.loopback import Loopback
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import write_json
from gobelin.shared.seeds import derive_seed
from tests.faults.gauntlet import (
    Sealed,
    computed_here,
    differ,
    found,
    inheriting,
    read_sealed,
    sealed_in,
    unfinished,
)
from tests.faults.inject.process_names import process_name
from tests.faults.points import ENGINE

RUNS = Path("runs")
QUIET, KILLED = "undisturbed", "killed"
MARK = "GOBELIN_SOAK"  # in what our processes inherit: how the next run finds what this one left
NODES = ("north", "south", "east")
GOAL = "RSS slope at most 1 MB/h after warm-up, no stuck round, digests of the undisturbed run"
TICK_S = 0.25
SAVE_S = 120.0
LOOK_S = 2.0
DISK_ROUNDS = 10  # between two looks at the disk
END_S = 60.0  # for nodes to hear the farewell, and for the engine's processes to end
MOMENTS_S = 10.0  # a kill is within so many seconds of when its round is the open one
MOST_VAIN = 3  # kills without a sealed round between: the next one waits for it
TWICE_S = 60.0  # that two processes of one name may overlap: a killed supervisor's and the next's
MORE_FDS = 5  # that a warm process may come to hold: connections come and go
WARMUP = 0.3  # of the rounds: caches fill, heaps settle
LEAST = 0.2  # of the rounds that a life must last, for a slope


class Soak:
    """One federation, killed once in `every` rounds in the mean, or never."""

    def __init__(self, folder: Path, rounds: int, every: float, seed: int, stuck_s: float) -> None:
        self.folder = folder.absolute()
        self._every = every
        self._stuck_s = stuck_s
        self._net = Loopback(
            self.folder,
            {name: self.folder / "data" / name for name in NODES},
            rounds=rounds,
            environment={MARK: str(self.folder)},
        )
        self._rng = random.Random(derive_seed(seed, "kills", len(self.lines("kills"))))
        self._sealed = 0
        self._vain = 0  # kills since a round was sealed
        self._kill_from = math.inf  # sealed rounds
        self._kill_at: float | None = None  # once they are
        self._twice: dict[str, float] = {}  # process → since when there are two

    # ------------------------------------------------------------ what is known, a line each

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """What has been noted so far; a line that a kill has torn was never one."""
        file = self.folder / f"{kind}.jsonl"
        found = []
        for line in file.read_bytes().splitlines() if file.exists() else []:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _note(self, kind: str, **facts: Any) -> None:
        with (self.folder / f"{kind}.jsonl").open("ab+") as file:
            file.seek(max(file.tell() - 1, 0))
            torn = file.read() not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(facts).encode() + b"\n")

    @property
    def finished(self) -> bool:
        """Whether it has come to its end, well or not."""
        return (self.folder / "finished").exists()

    @property
    def home(self) -> Path:
        """The aggregator's."""
        return self._net.aggregator_home

    # ------------------------------------------------------------ the run

    def run(self, stop: threading.Event) -> None:
        """Run to the last round or to a standstill, from wherever it is, unless `stop` is set."""
        if self.finished:
            return
        left = inheriting(MARK, str(self.folder))  # by a run of this script that was killed itself
        for process in left:
            process.kill()
        psutil.wait_procs(left)
        with self._net as net:
            net.start()
            try:
                self._survive(stop)
            finally:
                net.stop()
                self._end_the_rest()
        if not stop.is_set():
            (self.folder / "finished").touch()

    def _survive(self, stop: threading.Event) -> None:
        since, looked = time.monotonic(), 0.0
        self._sealed = sealed_in(self.home)
        self._draw_kill(self._sealed)
        while not self._net.restart_ended(self._exited):
            if stop.is_set():
                return
            now, sealed = time.monotonic(), sealed_in(self.home)
            if sealed != self._sealed:
                self._note("pace", at=time.time(), round=sealed, seconds=now - since)
                if sealed // DISK_ROUNDS != self._sealed // DISK_ROUNDS:
                    self._look_at_disk(sealed)
                self._sealed, since, self._vain = sealed, now, 0
            if now - since > self._stuck_s:
                self._note("violations", what=f"stuck after round {sealed}")
                return
            if now - looked >= LOOK_S:
                self._look()
                looked = now
            self._kill_if_due(now, sealed)
            time.sleep(TICK_S)
        self._wait_for_nodes()

    def _draw_kill(self, sealed: int) -> None:
        """When the next kill is due: rounds from now, perhaps none, and moments after that."""
        if self._every:
            self._kill_from = sealed + int(self._rng.expovariate(1 / self._every))
            self._kill_at = None

    def _kill_if_due(self, now: float, sealed: int) -> None:
        if self._kill_from <= sealed < self._net.rounds and self._vain < MOST_VAIN:
            self._kill_at = self._kill_at or now + self._rng.uniform(0, MOMENTS_S)
            if now >= self._kill_at:
                self._kill_one(sealed)
                self._draw_kill(sealed)

    def _kill_one(self, sealed: int) -> None:
        """Any kind of process is as likely; one that does not run just now is passed over."""
        running = {}
        for process in inheriting(MARK, str(self.folder)):
            with contextlib.suppress(psutil.Error):  # it has just ended
                running[process_name(process.cmdline()[1:])] = process
        kinds = [kind for kind in (*ENGINE, *NODES) if kind in running]
        if kinds:
            kind = self._rng.choice(kinds)
            self._note("kills", at=time.time(), round=sealed, process=kind)
            running[kind].kill()
            self._vain += 1

    def _exited(self, name: str, code: int) -> None:
        self._note("exits", process=name, code=code, at=time.time())

    def _wait_for_nodes(self) -> None:
        give_up = time.monotonic() + END_S
        nodes = [self._net.processes[name] for name in NODES]
        while time.monotonic() < give_up and any(node.poll() is None for node in nodes):
            time.sleep(TICK_S)

    def _end_the_rest(self) -> None:
        give_up = time.monotonic() + END_S
        while (left := inheriting(MARK, str(self.folder))) and time.monotonic() < give_up:
            time.sleep(TICK_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                self._note("violations", what=f"left behind: {' '.join(process.cmdline())[:200]}")
                process.kill()

    # ------------------------------------------------------------ looks

    def _look(self) -> None:
        looks = look_at(inheriting(MARK, str(self.folder)), sealed_in(self.home))
        for look in looks:
            self._note("looks", **asdict(look))
        times, now = Counter(look.process for look in looks), time.monotonic()
        self._twice = {name: self._twice.get(name, now) for name, n in times.items() if n > 1}
        for name, since in self._twice.items():
            if now - since > TWICE_S:
                self._note("violations", what=f"two of {name} for {TWICE_S:.0f} s")
                self._twice[name] = math.inf  # told once

    def _look_at_disk(self, sealed: int) -> None:
        node = self._net.node_home(NODES[0])
        self._note("disk", round=sealed, aggregator=disk_use(self.home), node=disk_use(node))

    # ------------------------------------------------------------ what became of it

    def rounds(self) -> Iterator[Sealed]:
        """Every sealed round, in order; raises GobelinError on a damaged one."""
        for number in range(1, sealed_in(self.home) + 1):
            yield read_sealed(self.home, number)

    def wrong(self) -> list[str]:
        """What was seen on the way, and what lies there now that should not."""
        told = [str(row["what"]) for row in self.lines("violations")]
        told += [f"{name} saw a traceback" for name in self._tracebacks()]
        if self.finished:
            told += [f"left behind: {path.name}" for path in unfinished(self.folder)]
        for grown in self.growth():
            if grown.fds[1] > grown.fds[0] + MORE_FDS:
                told.append(f"{grown.process} went from {grown.fds[0]} to {grown.fds[1]} files")
        return told

    def _tracebacks(self) -> list[str]:
        names = [name for name in ("aggregator", *NODES) if (self.folder / f"{name}.log").exists()]
        return [name for name in names if "Traceback" in self._net.log(name)]

    def growth(self) -> list[Growth]:
        """Of every long life."""
        rounds = self._net.rounds
        looks = (Look(**row) for row in self.lines("looks") if row["round"] < rounds)
        return growth_of(looks, round(WARMUP * rounds), round(LEAST * rounds))

    def disk(self) -> dict[str, dict[str, list[float]]]:
        """Bytes and files a round, of the aggregator and of a node, after warm-up."""
        rows = [row for row in self.lines("disk") if row["round"] >= WARMUP * self._net.rounds]
        return {
            home: per_round([(row["round"], row[home]) for row in rows])
            for home in ("aggregator", "node")
        }

    def pace(self) -> list[float]:
        """Seconds from one seal to the next."""
        return [row["seconds"] for row in self.lines("pace")[1:]]


def result(quiet: Soak, killed: Soak | None, rounds: int) -> dict[str, Any]:
    """The figures of what there is by now."""
    violations: list[str] = []
    sealed: list[list[Sealed]] = []
    soaks = [quiet] if killed is None else [quiet, killed]
    for soak in soaks:
        violations += [f"{soak.folder.name}: {what}" for what in soak.wrong()]
        try:
            sealed.append(list(soak.rounds()))
        except GobelinError as error:
            sealed.append([])
            violations.append(f"{soak.folder.name}: {error}")
        if soak.finished and len(sealed[-1]) != rounds:
            violations.append(f"{soak.folder.name}: {len(sealed[-1])} of {rounds} rounds sealed")
    last, computed = sealed[0][-1:], quiet.folder.parent / "computed"
    if quiet.finished and last and last[0].vector_digest != in_one_process(rounds, computed):
        violations.append(f"{QUIET}: another digest than the same rounds in one process")
    values: dict[str, Any] = {}
    if killed is not None:
        found = differ(sealed[1], sealed[0])
        violations += found.what
        values = {"lost": found.lost, "double": found.double, **of_kills(killed)}
    growth = quiet.growth()
    return {
        "rounds": len(sealed[-1]),
        "planned": rounds,
        "undisturbed_rounds": len(sealed[0]),
        "violations": len(violations),
        "violated": violations,
        "rss_slope_mb_h": max((one.rss_slope_mb_h for one in growth), default=None),
        "growth": [asdict(one) for one in growth],
        "disk": quiet.disk(),
        **values,
        **{f"{soak.folder.name}_seconds_a_round": pace_of(soak) for soak in soaks},
        "finished": all(soak.finished for soak in soaks),
    }


def of_kills(killed: Soak) -> dict[str, Any]:
    """Which processes were killed, how they ended, and what grew in between."""
    return {
        "killed_growth": [asdict(one) for one in killed.growth()],
        "killed_disk": killed.disk(),
        "kills": dict(Counter(row["process"] for row in killed.lines("kills"))),
        "exits": dict(Counter(f"{r['process']}: {r['code']}" for r in killed.lines("exits"))),
    }


def pace_of(soak: Soak) -> Mapping[str, float]:
    """Median, greatest and sum of the seconds between seals."""
    pace = sorted(soak.pace()) or [0.0]
    return {"median": pace[len(pace) // 2], "max": pace[-1], "sum": sum(pace)}


def in_one_process(rounds: int, file: Path) -> str:
    """The digest of the last consensus as computed here; kept, for it takes minutes."""
    if not file.exists():
        file.write_text(computed_here(rounds, NODES))
    return file.read_text()


def begin(folder: Path, chosen: Mapping[str, Any], fresh: bool) -> None:
    """Found the federations, unless these very ones are there: one after the other.

    A model's first values are drawn from the process's one generator.
    """
    file = folder / "chosen.json"
    if fresh or not file.exists() or json.loads(file.read_bytes()) != chosen:
        shutil.rmtree(folder, ignore_errors=True)
        for name in (QUIET,) if chosen["alone"] else (QUIET, KILLED):
            found((folder / name).absolute(), int(chosen["rounds"]), NODES, release_every=10)
        write_json(file, chosen)


def main() -> None:
    """Run both side by side and write bench/results/soak.json, also now and then on the way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--every", type=float, default=8.0, help="rounds between kills, mean")
    parser.add_argument("--stuck", type=float, default=240.0, help="seconds a round may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="without the federation of kills")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--name", default="soak", help="of the result file, and of its runs")
    options = parser.parse_args()
    keys = ("rounds", "every", "stuck", "seed", "alone")
    chosen = {name: getattr(options, name) for name in keys}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = RUNS / options.name
    begin(folder, chosen, options.fresh)
    common = options.seed, options.stuck
    quiet = Soak(folder / QUIET, options.rounds, 0.0, *common)
    killed = (
        None if options.alone else Soak(folder / KILLED, options.rounds, options.every, *common)
    )
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        try:
            running = {pool.submit(soak.run, stop) for soak in (quiet, killed) if soak is not None}
            while running:
                done, running = wait(running, timeout=SAVE_S)
                for future in done:
                    future.result()
                values = {**chosen, **result(quiet, killed, options.rounds), "goal": GOAL}
                write_result(options.name, values)
        finally:
            stop.set()  # whatever still runs ends now
    print(f"{values['rounds']} rounds, {values['violations']} violations: {values['violated']}")
    sys.exit(bool(values["violations"]))


if __name__ == "__main__":
    main()

"""Processes are ended by kill −9 at chosen points, and what is sealed does not differ by a bit.

A sample of what `python -m bench.kill_points` does with hundreds of points.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.kill_points import Bench, run
from tests.faults.gauntlet import (
    INJECT,
    MEMBERS,
    Difference,
    Gauntlet,
    Outcome,
    Sealed,
    computed_here,
    differ,
    found,
)
from tests.faults.points import OUTSIDE, Choice, Life, Plan, Point, Reachable, reachable

linux = pytest.mark.skipif(sys.platform != "linux", reason="file names come from /proc")

# ---------------------------------------------------------------- real federations

SAMPLE = [
    "superlink:commit:get_message_ins:1:after",  # a plan, handed over to nobody
    "serverapp:rename:aggregator/rounds/round-N:1:before",
    "south:grpc:PushObject:2:before",  # half a reply
    "supervisor:http:list-runs:1:before",
    "superexec:http:acquire-task:1:after",
]
MORE = [
    "superlink:commit:get_message_res:1:after",  # a reply, handed over to nobody
    "serverapp:append:aggregator/events.jsonl:1:torn",
    "north:rename:spool/round-N:1:after",
    "superlink:commit:store_message_res:1:before",
    "north:grpc:PullMessages:1:after",  # a plan, in hand and forgotten
    "serverapp:append:aggregator/journal/journal.jsonl:1:before",
]


def survive(folder: Path, rounds: int, sample: list[str]) -> Outcome:
    """A federation under these kills, each of which must happen."""
    plan = Plan([Point.parse(text) for text in sample])
    outcome = Gauntlet(found(folder / "template", rounds), folder / "net", plan).run()
    assert outcome.violations == []
    assert outcome.unreached == []
    return outcome


@linux
@pytest.mark.timeout(1200)
def test_a_federation_that_is_killed_again_and_again_seals_the_same(tmp_path: Path) -> None:
    rounds = 3
    outcome = survive(tmp_path, rounds, SAMPLE)
    for sealed in outcome.rounds:
        assert [node for node, _ in sealed.contributions] == list(MEMBERS)
    assert outcome.rounds[-1].vector_digest == computed_here(rounds)


@linux
@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_federation_survives_kills_of_every_kind(tmp_path: Path) -> None:
    rounds = 10
    outcome = survive(tmp_path, rounds, [*MORE, *SAMPLE])
    assert outcome.rounds[-1].vector_digest == computed_here(rounds)


@linux
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_no_point_of_fifty_loses_a_contribution_or_counts_one_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        tally = run(
            Bench(2, rounds=20, hang_s=400),
            pool,
            wanted=50,
            seed=1,
            workers=2,
            save=lambda tally: None,
        )
    assert tally.violations == []
    assert len(tally.reached) >= 50


# ---------------------------------------------------------------- the injected module

SCRIPT = """
import os, sys
from pathlib import Path
for number in range(4):
    Path("new").write_bytes(b"whole")
    os.replace("new", f"made-{number}")
"""


def run_script(folder: Path, *plan: str) -> int:
    """Exit status of a process that takes itself for a superexec, under a plan."""
    faults = folder / "faults"
    for name in ("reached", "pids"):
        (faults / name).mkdir(parents=True, exist_ok=True)
    (faults / "plan").write_text("\n".join(plan))
    script = folder / "flower-superexec"
    script.write_text(SCRIPT)
    environment = {"GOBELIN_FAULTS": str(faults), "GOBELIN_FAULTS_ROOT": str(folder)}
    return subprocess.run(
        [sys.executable, script], cwd=folder, env={**environment, "PYTHONPATH": str(INJECT)}
    ).returncode


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("made-*"))


@linux
@pytest.mark.parametrize(("phase", "count"), [("before", 2), ("after", 3)])
def test_a_process_ends_at_the_nth_time_it_comes_by(tmp_path: Path, phase: str, count: int) -> None:
    assert run_script(tmp_path, f"superexec:rename:made-N:3:{phase}") == -signal.SIGKILL
    assert len(made(tmp_path)) == count
    assert [path.name for path in (tmp_path / "faults" / "reached").iterdir()] == ["0"]


@linux
def test_a_point_is_reached_once_and_the_next_is_looked_out_for(tmp_path: Path) -> None:
    plan = ["superexec:rename:made-N:1:before", "superexec:write:new:2:torn"]
    assert run_script(tmp_path, *plan) == -signal.SIGKILL
    assert made(tmp_path) == []
    assert run_script(tmp_path, *plan) == -signal.SIGKILL
    assert made(tmp_path) == ["made-0"]
    assert (tmp_path / "new").read_bytes() == b"wh"
    assert run_script(tmp_path, *plan) == 0
    assert len(made(tmp_path)) == 4


@linux
def test_another_processes_point_is_passed_by(tmp_path: Path) -> None:
    assert run_script(tmp_path, "superlink:rename:made-N:1:before") == 0
    assert len(made(tmp_path)) == 4


# ---------------------------------------------------------------- the choice of points


def life(process: str, *operations: tuple[float, str]) -> Life:
    return Life(process, [(time, op, "site") for time, op in operations])


def test_operations_are_told_apart_by_when_they_happen() -> None:
    first = life(
        "superlink",
        *((0.1, "found"), (0.2, "start"), (1.1, "work"), (1.2, "work"), (2.1, "work")),
        (3.1, "work"),
    )
    again = life("superlink", (3.2, "start"), (4.1, "work"), (5.1, "work"), (6.1, "close"))
    what = reachable([again, first], sealed=[1, 2, 3, 4, 5, 6])
    key = ("superlink", "work", "site")
    assert what.running == {key: 2}
    assert what.starting == {("superlink", "start", "site"): 1}
    assert what.founding == {("superlink", "found", "site"): 1}
    assert what.closing == {("superlink", "close", "site"): 1}


def lively() -> Reachable:
    nodes = {(name, "fsync", f"file-{i}"): 2 for name in MEMBERS for i in range(9)}
    return Reachable(
        founding={("superlink", "commit", "a"): 1, ("supervisor", "http", "b"): 1},
        starting={("serverapp", "start", "process"): 1},
        running={**nodes, ("serverapp", "append", "events"): 3},
        closing={("serverapp", "exit", "process"): 1},
    )


def test_chosen_points_are_distinct_also_between_nodes() -> None:
    choice = Choice(lively(), 40, random.Random(0))
    points = []
    while len(choice):
        points += [p for p in choice.take(10).points if p.op != OUTSIDE]
    assert len({p.distinct for p in points}) == len(points) == 40
    assert {p.kind for p in points} == {"node", "superlink", "supervisor", "serverapp"}


def test_a_choice_is_the_same_for_the_same_seed() -> None:
    plans = [Choice(lively(), 30, random.Random(3)).take(99) for _ in range(2)]
    assert plans[0] == plans[1]


def test_a_plan_goes_from_founding_to_closing_and_a_start_follows_a_kill() -> None:
    for seed in range(20):
        plan = Choice(lively(), 40, random.Random(seed)).take(1000)
        ops = [point.op for point in plan.points]
        assert plan.points[0].process == "superlink"  # whatever comes first
        assert (ops[-1], plan.closing) == ("exit", 1)
        before = plan.points[ops.index("start") - 1]
        assert before.process == "serverapp"


def test_what_was_not_reached_is_tried_once_more() -> None:
    choice = Choice(lively(), 10, random.Random(0))
    plan = choice.take(1000)
    unreached = [p for p in plan.points if p.op != OUTSIDE][:3]
    choice.put_back(unreached)
    assert set(choice.take(1000).points) >= set(unreached)
    choice.put_back(unreached)
    assert len(choice) == 0


def test_a_point_is_its_text() -> None:
    for text in SAMPLE:
        assert str(Point.parse(text)) == text


# ---------------------------------------------------------------- the comparison


REFERENCE = [Sealed("d1", (("north", "a"), ("south", "b")))]


def test_the_same_rounds_do_not_differ() -> None:
    assert differ(REFERENCE, REFERENCE) == Difference()


@pytest.mark.parametrize(
    ("contributions", "lost", "double", "told"),
    [
        ((("north", "a"),), 1, 0, "lost the contribution of south"),
        ((("north", "a"), ("north", "a"), ("south", "b")), 0, 1, "counts north 2 times"),
        ((("north", "a"), ("south", "c")), 0, 0, "other contributions"),
    ],
)
def test_a_lost_a_double_and_another_contribution_are_told(
    contributions: tuple[tuple[str, str], ...], lost: int, double: int, told: str
) -> None:
    found = differ([Sealed("d1", contributions)], REFERENCE)
    assert (found.lost, found.double) == (lost, double)
    assert told in found.what[0]


def test_another_digest_is_told() -> None:
    (told,) = differ([Sealed("d2", REFERENCE[0].contributions)], REFERENCE).what
    assert "another digest" in told

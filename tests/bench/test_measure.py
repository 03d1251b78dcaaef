"""A long study goes on where it ended, and finds what it would have found at one go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.measure import KEEP, run_all


@dataclass(frozen=True)
class Job:
    """A number and a file that notes its runs."""

    number: int
    notes: Path


@dataclass(frozen=True)
class Found:
    """What a job found."""

    half: float
    pair: tuple[int, int]


def halve(job: Job) -> Found:
    with job.notes.open("a") as file:
        file.write(f"{job.number}\n")
    return Found(math.nan if job.number == 3 else job.number / 2, (job.number, 1))


def test_what_is_kept_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEEP, str(tmp_path / "jobs"))
    jobs = [Job(number, tmp_path / "notes") for number in (1, 2, 3)]
    first = run_all(halve, jobs[:2], 1)
    both = run_all(halve, jobs, 1, chunk=2)
    assert jobs[0].notes.read_text().split() == ["1", "2", "3"]
    assert list(both) == jobs
    assert {job: both[job] for job in jobs[:2]} == first
    again = run_all(halve, jobs, 1)
    assert math.isnan(again[jobs[2]].half)
    assert again[jobs[2]].pair == (3, 1)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEEP, raising=False)
    job = Job(1, tmp_path / "notes")
    assert run_all(halve, [job], 1) == run_all(halve, [job], 1) == {job: Found(0.5, (1, 1))}
    assert job.notes.read_text().split() == ["1", "1"]


def fail_first(job: Job) -> Found:
    halve(job)
    if job.number == 0:
        raise ValueError("the first job")
    return Found(0.0, (0, 0))


def test_a_job_that_fails_ends_the_study_at_once(tmp_path: Path) -> None:
    jobs = [Job(number, tmp_path / "notes") for number in range(12)]
    with pytest.raises(ValueError, match="the first job"):
        run_all(fail_first, jobs, 1)
    assert len(jobs[0].notes.read_text().split()) < len(jobs)

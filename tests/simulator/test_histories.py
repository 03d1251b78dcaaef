"""Histories of whole federations in virtual time: whatever happens, the promises hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulator.history import draw, run_history

SAMPLE = 300
STEP = 50  # seeds a case


@pytest.mark.parametrize("first", range(0, SAMPLE, STEP))
def test_a_sample_of_histories_breaks_no_promise(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + STEP):
        run_history(seed, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("first", range(SAMPLE, SAMPLE + 40 * STEP, STEP))
def test_more_histories_break_no_promise(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + STEP):
        run_history(seed, tmp_path)


def test_a_history_is_a_function_of_its_seed(tmp_path: Path) -> None:
    assert run_history(3, tmp_path) == run_history(3, tmp_path)


def test_faults_are_drawn_and_happen(tmp_path: Path) -> None:
    told = [run_history(seed, tmp_path) for seed in range(12)]
    assert sum(bool(one.faults) for one in told) >= 6
    assert len({one.digest for one in told}) > 6
    assert any(draw(seed).gentle for seed in range(12))

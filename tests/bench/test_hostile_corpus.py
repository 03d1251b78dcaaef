"""Nothing that a hostile node can upload is counted, ends the aggregator, or fills its memory."""

from __future__ import annotations

from pathlib import Path

from bench.hostile_cases import CASES
from bench.hostile_corpus import run


def test_every_hostile_reply_is_refused_by_its_code_and_an_honest_one_counts(
    tmp_path: Path,
) -> None:
    verdict = run(tmp_path)
    assert verdict.cases == len(CASES) >= 60
    assert (verdict.accepted, verdict.wrong, verdict.crashed) == ([], [], [])
    assert verdict.honest == 2  # one a plan
    assert verdict.growth_mb <= 64
    assert verdict.sound


def test_no_two_cases_have_one_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)

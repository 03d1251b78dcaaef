"""Reason codes are a closed list, and docs/reasons.md is that list."""

from __future__ import annotations

import json
from pathlib import Path

from gobelin.server.reasons import ReductionCode, RefusalCode, render

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_page_lists_every_code_and_no_other() -> None:
    assert PAGE.read_text() == render(), "run `python -m gobelin.server.reasons > docs/reasons.md`"


def test_every_code_says_what_it_means_and_is_used_once() -> None:
    codes = [*RefusalCode, *ReductionCode]
    assert len(set(codes)) == len(codes)
    assert len({code.meaning for code in codes}) == len(codes)


def test_a_code_is_written_as_itself() -> None:
    assert json.dumps({"reason": RefusalCode.NOT_FINITE}) == '{"reason": "vector.not_finite"}'
    assert RefusalCode("vector.not_finite") is RefusalCode.NOT_FINITE

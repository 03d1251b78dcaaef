"""A checkup: each check is bounded, none ends the others, and every failure has a next command."""

from __future__ import annotations

import json
import threading

import pytest

from gobelin.shared.checkup import Check, Found, fail, failed, ok, print_checkup, run_checks
from gobelin.shared.errors import DataError


def raising(error: Exception) -> Found:
    raise error


def test_an_error_with_a_remedy_is_a_failure_with_its_code() -> None:
    missing = Check("data", lambda: raising(DataError("nothing there", "point at images")))
    (row,) = run_checks([missing])
    assert (row.verdict, row.code, row.remedy) == ("fail", "data", "point at images")


def test_a_check_that_breaks_is_told_and_hides_no_other() -> None:
    rows = run_checks(
        [Check("one", lambda: raising(KeyError("x"))), Check("two", lambda: ok("fine"))]
    )
    assert [(row.verdict, row.code) for row in rows] == [("fail", "internal"), ("ok", "")]


def test_what_takes_too_long_fails_and_is_not_waited_for() -> None:
    ends = threading.Event()
    slow = Check("slow", lambda: ok(f"late {ends.wait(60)}"), wait_s=0.05)
    rows = run_checks([slow, Check("quick", lambda: ok("fine"))])
    ends.set()
    assert [(row.check, row.verdict, row.code) for row in rows] == [
        ("slow", "fail", "timeout"),
        ("quick", "ok", ""),
    ]


def test_a_file_that_may_not_be_read_is_named() -> None:
    (row,) = run_checks([Check("home", lambda: raising(PermissionError(13, "denied", "node.key")))])
    assert row.verdict == "fail"
    assert "node.key" in row.found


@pytest.mark.parametrize("as_json", [True, False])
def test_what_fails_is_printed_with_its_remedy(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run_checks([Check("disk", lambda: fail("disk", "none left", "free some"))])
    assert failed(rows)
    print_checkup("node", rows, as_json, terminal=False)
    told = capsys.readouterr().out
    if as_json:
        assert json.loads(told)["checks"][0]["remedy"] == "free some"
        assert json.loads(told)["failed"] is True
    else:
        assert "[disk] → free some" in told

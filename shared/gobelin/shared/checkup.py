"""A checkup: small checks, run side by side, each bounded in time; what was found and what to do.

A check is a function that returns what it found, or raises: a GobelinError is a failure with its
own code and remedy. Nothing it does ends the others, and none is waited for longer than it may
take.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gobelin.shared.console import print_table
from gobelin.shared.errors import GobelinError

Verdict = Literal["ok", "warn", "fail", "skip"]
WAIT_S = 30.0  # for a check, unless it says otherwise


@dataclass(frozen=True)
class Found:
    """What a check has found."""

    verdict: Verdict
    found: str  # one line
    remedy: str = ""  # the next command, or what to ask whom for; with warn and fail
    code: str = ""  # stable, for whoever reads the JSON; with warn and fail
    facts: dict[str, Any] = field(default_factory=dict)  # numbers behind it


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    run: Callable[[], Found]
    wait_s: float = WAIT_S


@dataclass(frozen=True)
class Row:
    """One check and what it found."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
    code: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def ok(found: str, **facts: Any) -> Found:
    """All is well."""
    return Found("ok", found, facts=facts)


def skip(found: str) -> Found:
    """It does not apply here, and why."""
    return Found("skip", found)


def warn(code: str, found: str, remedy: str, **facts: Any) -> Found:
    """It works, and may not for long or not well."""
    return Found("warn", found, remedy, code, facts)


def fail(code: str, found: str, remedy: str, **facts: Any) -> Found:
    """It will fail."""
    return Found("fail", found, remedy, code, facts)


def run_checks(checks: Sequence[Check]) -> list[Row]:
    """What all checks have found, in their order; run side by side.

    One that takes longer than it may is a failure; its thread is left behind.
    """
    rows: dict[str, Row] = {}
    threads = []
    started = time.monotonic()
    for check in checks:
        thread = threading.Thread(target=_run, args=(check, rows), name=check.name, daemon=True)
        thread.start()
        threads.append(thread)
    for check, thread in zip(checks, threads, strict=True):
        thread.join(max(0.0, started + check.wait_s - time.monotonic()))
    late = {
        check.name: Row(
            check.name,
            "fail",
            f"no outcome within {check.wait_s:.0f} s",
            "run `gobelin doctor` again when the machine is less busy",
            "timeout",
            check.wait_s,
        )
        for check in checks
    }
    return [rows.get(check.name, late[check.name]) for check in checks]


def _run(check: Check, rows: dict[str, Row]) -> None:
    started = time.monotonic()
    try:
        found = check.run()
    except GobelinError as error:
        found = fail(error.code, error.what, error.remedy)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror or type(error).__name__}"
        found = fail("machine", what, "check the path, its permissions and the free space")
    except Exception as error:
        what = f"the check itself failed: {type(error).__name__}: {str(error)[:200]}"
        found = fail("internal", what, "report it; the other checks do not depend on it")
    rows[check.name] = Row(check.name, seconds=time.monotonic() - started, **asdict(found))


def failed(rows: Sequence[Row]) -> bool:
    """Whether anything will fail."""
    return any(row.verdict == "fail" for row in rows)


def print_checkup(role: str, rows: Sequence[Row], as_json: bool, terminal: bool) -> None:
    """Print what was found: a table on a terminal, plain lines elsewhere, or one JSON object."""
    if as_json:
        told = [asdict(row) for row in rows]
        print(json.dumps({"role": role, "failed": failed(rows), "checks": told}, sort_keys=True))
        return
    if terminal:
        shown = [[row.check, row.verdict, " ".join(row.found.split())] for row in rows]
        print_table(("check", "", "found"), shown, left=True)
    else:
        for row in rows:
            print(f"{row.verdict:4}  {row.check}: {' '.join(row.found.split())}")
    for row in rows:
        if row.verdict in ("warn", "fail"):
            print(f"{row.verdict}: {row.check} [{row.code}] → {row.remedy}")
    counts = {v: sum(row.verdict == v for row in rows) for v in ("fail", "warn", "ok", "skip")}
    words = {"fail": "will fail", "warn": "to look at", "ok": "ok", "skip": "not looked at"}
    print(", ".join(f"{count} {words[v]}" for v, count in counts.items() if count))

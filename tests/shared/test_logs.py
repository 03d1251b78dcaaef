"""Logs are one stream: ours, children's, Flower's; bounded, and clean where they leave."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import re
import stat
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from gobelin.shared.data.bad_input import BadInput
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.logs import (
    FLOWER,
    SHIPPED,
    TOLD,
    LogSettings,
    Relay,
    adopt,
    bound,
    facts,
    kept,
    logged,
    parse_line,
    pick_stream,
    tell,
)
from gobelin.shared.signals import Stopped

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CANARY = "CANARY7f3a91"
log = logging.getLogger("gobelin.tests")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def logged_lines(file: Path) -> list[dict[str, Any]]:
    return lines(file.read_text())


def test_a_record_says_when_what_who_and_where() -> None:
    out = io.StringIO()
    with logged(LogSettings(), "json", out, role="node", member="north", node="north-1"):
        with bound(round=3, attempt=2):
            log.info("said %s", "so", extra=facts("something", count=4))
        tell({"event": "refused", "reason": "norm", "at": "2026-01-02T03:04:05.678+00:00"})
    first, second = lines(out.getvalue())
    assert RFC3339.fullmatch(first.pop("time"))
    assert first == {
        **{"level": "info", "event": "something", "role": "node", "member": "north"},
        **{"node": "north-1", "round": 3, "attempt": 2, "count": 4, "text": "said so"},
    }
    assert second["time"] == "2026-01-02T03:04:05.678Z"  # when it happened
    assert "at" not in second
    assert "round" not in second


def test_time_is_that_of_the_world_and_not_of_the_machines_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    with logged(LogSettings(), "json", out):
        tell({"event": "now"})
    told = datetime.datetime.fromisoformat(lines(out.getvalue())[0]["time"])
    assert abs(told - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)


def test_nan_is_no_json_and_is_told_as_null() -> None:
    out = io.StringIO()
    with logged(LogSettings(), "json", out):
        tell({"event": "seen", "metrics": {"loss": float("nan"), "rank": 2.0}})
    assert lines(out.getvalue())[0]["metrics"] == {"loss": None, "rank": 2.0}


def test_libraries_warnings_and_crashed_threads_are_in_the_same_stream() -> None:
    out, theirs = io.StringIO(), io.StringIO()
    flower = logging.getLogger(FLOWER)
    flower.addHandler(logging.StreamHandler(theirs))
    adopt(FLOWER)

    def crash() -> None:
        raise RuntimeError("in a thread")

    with logged(LogSettings(), "json", out):
        flower.info("a line a request")
        flower.warning("from %s", "Flower")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        thread = threading.Thread(target=crash, name="worker")
        thread.start()
        thread.join()
    rows = lines(out.getvalue())
    assert [row["event"] for row in rows] == ["library", "library", "crashed"]
    assert (rows[0]["logger"], rows[0]["text"], rows[0]["level"]) == (
        *("flwr", "from Flower", "warning"),
    )
    assert rows[1]["logger"] == "py.warnings"
    assert (rows[2]["thread"], rows[2]["exception"]) == ("worker", "RuntimeError")
    assert "in a thread" in rows[2]["traceback"]
    assert theirs.getvalue() == ""


def test_the_level_holds_for_ours_and_libraries_say_warnings_alone() -> None:
    out = io.StringIO()
    with logged(LogSettings(level="debug"), "json", out):
        log.debug("", extra=facts("fine"))
        logging.getLogger("httpx").info("a line a request")
    with logged(LogSettings(level="error"), "json", out):
        log.warning("", extra=facts("not so fine"))
        TOLD.error("", extra=facts("bad"))
    assert [row["event"] for row in lines(out.getvalue())] == ["fine", "bad"]


def test_what_is_shown_on_the_terminal_is_not_printed_twice_and_no_traceback_is() -> None:
    out = io.StringIO()
    with logged(LogSettings(), None, out):
        tell({"event": "refused"}, logging.WARNING)
        try:
            raise ValueError(CANARY)
        except ValueError:
            log.warning("it failed", exc_info=True)
        log.info("not of interest")
    assert out.getvalue() == "it failed\n"


def test_a_file_is_private_and_bounded_and_says_what_ended_it(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "node.log"
    settings = LogSettings(max_mb=0.01, keep=2)
    with (  # noqa: PT012
        pytest.raises(DataError),
        logged(settings, None, io.StringIO(), role="node"),
        kept(file),
    ):
        for number in range(1000):
            tell({"event": "step", "step": number})
        raise DataError("no samples", "add some")
    files = sorted(file.parent.iterdir())
    assert [one.name for one in files] == ["node.log", "node.log.1", "node.log.2"]
    assert all(one.stat().st_size <= 10_000 for one in files)
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in files)
    last = logged_lines(file)[-1]
    assert (last["event"], last["error"], last["exception"]) == ("failed", "data", "DataError")
    assert logged_lines(file)[-2]["step"] == 999


def test_who_is_asked_to_stop_has_not_crashed(tmp_path: Path) -> None:
    with pytest.raises(Stopped), kept(tmp_path / "log"):
        raise Stopped
    assert not (tmp_path / "log").read_text()  # below warnings, where nobody has asked for it
    with pytest.raises(Stopped), logged(LogSettings(), None, io.StringIO()), kept(tmp_path / "log"):
        raise Stopped
    (told,) = logged_lines(tmp_path / "log")
    assert (told["event"], told["level"]) == ("stopped", "info")


def test_a_disk_that_takes_no_more_ends_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    file = tmp_path / "node.log"
    file.symlink_to("/dev/full")
    out = io.StringIO()
    with logged(LogSettings(), "json", out), kept(file):
        tell({"event": "one"})
        tell({"event": "two"})
    assert [row["event"] for row in lines(out.getvalue())] == ["one", "two"]


def test_for_people_the_same_is_one_line_that_can_be_read(tmp_path: Path) -> None:
    out = io.StringIO()
    with logged(LogSettings(), "console", out, role="supervisor"):
        tell({"event": "refused", "node": "south", "reason": "norm"})
    (line,) = out.getvalue().splitlines()
    assert all(word in line for word in ("refused", "node=south", "reason=norm", "supervisor"))


# ---------------------------------------------------------------- children


@pytest.mark.parametrize(
    ("line", "level", "told"),
    [
        ('{"time": "t", "level": "error", "event": "x", "role": "serverapp"}', logging.ERROR, "x"),
        ("\x1b[93mWARNING \x1b[0m:   This is \x1b", logging.WARNING, "library"),
        ("Traceback (most recent call last):", logging.WARNING, "output"),
        ('{"no": "event"}', logging.WARNING, "output"),
        ('{"event": "x", "level": "loud"}', logging.INFO, "x"),
        ("{", logging.WARNING, "output"),
    ],
)
def test_a_childs_line_is_a_record_whatever_it_is(line: str, level: int, told: str) -> None:
    found, row = parse_line(line)
    assert (found, row["event"]) == (level, told)


def test_what_a_child_prints_keeps_its_own_time_and_role() -> None:
    out = io.StringIO()
    reading, writing = os.pipe()
    said = {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "event": "x",
        "role": "serverapp",
    }
    os.write(writing, json.dumps(said).encode() + b"\nplain\xff\n\nno newline at the end")
    os.close(writing)
    with logged(LogSettings(), "json", out, role="supervisor", federation="fed"):
        relay = Relay("superexec", os.fdopen(reading, "rb"))
        relay.start()
        relay.join(10)
    first, *others = lines(out.getvalue())
    assert first == {**said, "federation": "fed"}
    assert [(row["role"], row["text"]) for row in others] == [
        ("superexec", "plain\ufffd"),
        ("superexec", "no newline at the end"),
    ]


# ---------------------------------------------------------------- what may be shipped


def noisy(samples: Path) -> None:
    """All ways in which a path, a sample's name or a value could come into a log."""
    bad = BadInput("skip")
    bad.meet(f"{samples}/{CANARY}.png", f"not a readable image of {CANARY}")
    log.warning("free text about %s", samples)
    logging.getLogger("PIL").warning("cannot read %s", samples)
    tell({"event": "idle", "note": f"could not contribute: {samples}", "round": 3})
    tell({"event": "refused", "reason": f"no code {CANARY}", "node": f"{CANARY} /"})
    tell({"event": "seen", "metrics": {f"of {CANARY}": 1.0, "loss": 2.0}, CANARY: 1})
    try:
        raise DataError(f"{samples} is empty")
    except DataError:
        TOLD.warning("no contribution", exc_info=True, extra=facts("contribution_failed"))


def test_in_full_a_log_helps_its_operator_to_find_the_sample(tmp_path: Path) -> None:
    file, samples = tmp_path / "log", tmp_path / CANARY
    with logged(LogSettings(), None, io.StringIO()), kept(file):
        noisy(samples)
    assert file.read_text().count(CANARY) > 8
    assert logged_lines(file)[0]["sample"] == f"{samples}/{CANARY}.png"


@pytest.mark.parametrize("form", ["json", "console"])
def test_in_codes_no_path_name_or_value_is_left(tmp_path: Path, form: Any) -> None:
    out, file, samples = io.StringIO(), tmp_path / "log", tmp_path / CANARY
    with logged(LogSettings(content="codes", format=form), form, out), kept(file):
        noisy(samples)
    for text in (out.getvalue(), file.read_text()):
        assert CANARY not in text
        assert str(tmp_path) not in text
        assert "contribution_failed" in text
    if form == "json":
        rows = logged_lines(file)
        assert rows[-1]["error"] == "data"
        assert {key for row in rows for key in row} <= SHIPPED
        assert rows[-2]["metrics"] == {"loss": 2.0}


def test_json_is_what_the_log_is_printed_as_and_other_formats_are_refused() -> None:
    assert pick_stream(None, as_json=False) is None
    assert pick_stream(None, as_json=True) == "json"
    assert pick_stream("console", as_json=True) == "console"
    with pytest.raises(ConfigError, match="xml"):
        pick_stream("xml", as_json=False)


def test_what_was_there_before_is_there_again() -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    with logged(LogSettings(), "json", io.StringIO()):
        assert len(root.handlers) == len(before) + 1
    assert root.handlers == before

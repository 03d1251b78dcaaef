"""Every event is one line that says what happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.progress import Progress, describe
from gobelin.shared.logs import LogSettings, logged
from tests.keys import entry

DIGEST = "0123456789abcdef" * 4
CONTRIBUTION: dict[str, Any] = {
    "event": "contribution",
    "round": 2,
    "node": "north-1",
    "samples": 12345,
    "seconds": 6.78,
    "metrics": {"loss": 0.1234, "effective_rank": 17.36},
}

EVENTS: list[tuple[dict[str, Any], str]] = [
    (
        {"event": "up", "address": "host:9092", "superlink": 1, "superexec": 2},
        "up: nodes reach the aggregator at host:9092",
    ),
    (
        {"event": "up", "address": "host:9092", "service_address": "host:9093"},
        "up: nodes reach the aggregator at host:9092, and join at host:9093",
    ),
    (
        {"event": "round_opened", "round": 2, "attempt": 1, "base_digest": DIGEST},
        "round 2/9: opened on base 0123456789ab",
    ),
    (
        {"event": "round_opened", "round": 2, "attempt": 3, "base_digest": DIGEST},
        "round 2/9: opened on base 0123456789ab (attempt 3)",
    ),
    (
        {"event": "round_resumed", "round": 2, "attempt": 1, "nodes": ["north-1", "south"]},
        "round 2/9: resumed with what is in from north-1, south",
    ),
    (
        {"event": "round_resumed", "round": 2, "attempt": 1, "nodes": []},
        "round 2/9: resumed with what is in from nobody yet",
    ),
    (
        {"event": "damaged", "what": "step is torn", "remedy": "", "error": "checkpoint"},
        "damaged: step is torn; nodes are sent the whole base instead",
    ),
    (
        {"event": "lost", "round": 2, "node": "north-1"},
        "round 2/9: what north-1 contributed is damaged here; it is asked again",
    ),
    (
        CONTRIBUTION,
        "round 2/9: north-1 contributed 12,345 samples in 6.8 s (loss 0.123, effective rank 17.4)",
    ),
    (
        {**CONTRIBUTION, "event": "late", "staleness": 2},
        "round 2/9: north-1 contributed 12,345 samples in 6.8 s, 2 rounds late "
        "(loss 0.123, effective rank 17.4)",
    ),
    (
        {**CONTRIBUTION, "metrics": {}},
        "round 2/9: north-1 contributed 12,345 samples in 6.8 s (loss nan, effective rank nan)",
    ),
    (
        {
            "event": "offered",
            "round": 2,
            "nodes": {
                "north": {"steps": None, "bytes": 2_819_000},
                "south": {"steps": 1, "bytes": 712_000},
                "west": {"steps": 2, "bytes": 1_424_000},
            },
        },
        "round 2/9: offered to north (whole base, 2.82 MB), south (1 step, 0.712 MB), "
        "west (2 steps, 1.42 MB)",
    ),
    (
        {"event": "refused", "round": 2, "node": "south", "reason": "round", "found": "made for 1"},
        "round 2/9: refused south: round (made for 1)",
    ),
    (
        {"event": "refused", "round": 2, "node": "012345", "reason": "not_on_roster"},
        "round 2/9: refused 012345: not_on_roster ()",
    ),
    (
        {
            "event": "round_sealed",
            "round": 2,
            "vector_digest": DIGEST,
            "seconds": 12.34,
            "overhead_s": 1.26,
            "retained_norm": 0.577,
        },
        "round 2/9: sealed 0123456789ab in 12.3 s (overhead 1.3 s, retained norm 0.58)",
    ),
    (
        {
            "event": "round_sealed",
            "round": 2,
            "vector_digest": DIGEST,
            "seconds": 12.34,
            "overhead_s": 1.26,
            "retained_norm": 0.577,
            "moments": ["north", "south"],
        },
        "round 2/9: sealed 0123456789ab in 12.3 s (overhead 1.3 s, retained norm 0.58, "
        "moments of north, south)",
    ),
    (
        {"event": "round_void", "round": 2, "attempt": 1, "reason": "1 of 2 members contributed"},
        "round 2/9: void, base unchanged: 1 of 2 members contributed",
    ),
    (
        {"event": "release", "round": 2, "folder": "release-00002"},
        "round 2/9: released release-00002",
    ),
    ({"event": "waiting", "reason": "waiting for south"}, "waiting for south"),
    (
        {"event": "finished", "round": 9, "vector_digest": DIGEST},
        "finished: consensus 0123456789ab after 9 rounds",
    ),
    ({"event": "restarting", "process": "superlink"}, "restarting superlink"),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=[e["event"] for e, _ in EVENTS])
def test_an_event_is_one_line(event: dict[str, Any], line: str) -> None:
    assert describe(event, 9) == line


@pytest.fixture
def home(tmp_path: Path) -> AggregatorHome:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:9092", rounds={"rounds": 9}))
    place = AggregatorHome(tmp_path / "home")
    for number, name in ((1, "north-1"), (2, "south-1")):
        place.write_roster(place.roster().admit(entry(name.split("-")[0], name, number)))
    return place


def test_as_json_every_event_is_one_object_and_nothing_else(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(home, as_json=True) as progress, logged(LogSettings(), "json", sys.stdout):
        progress.say("for people")
        for event, _ in EVENTS:
            progress.on_event(event)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in told] == [event["event"] for event, _ in EVENTS]
    assert [{**row, **event} for row, (event, _) in zip(told, EVENTS, strict=True)] == told
    last = {"round": 2, "attempt": 1}  # of the round that was opened or resumed last
    waiting = next(row for row in told if row["event"] == "waiting")
    assert {key: waiting[key] for key in last} == last


def test_as_text_every_event_is_its_line(
    home: AggregatorHome, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(home, as_json=False) as progress:
        for event, _ in EVENTS:
            progress.on_event(event)
    then = (
        f"; Ctrl-C stops it and loses nothing. Next: gobelin aggregator status --home {home.folder}"
    )
    lines = [line + then if event["event"] == "up" else line for event, line in EVENTS]
    assert capsys.readouterr().out.splitlines() == lines


def test_names_are_no_markup(home: AggregatorHome, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(home, as_json=False) as progress:
        progress.on_event({"event": "waiting", "reason": "waiting for [bold]x[/bold]"})
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_events_are_read_from_where_one_left_off(home: AggregatorHome) -> None:
    assert home.events() == ([], 0)
    home.record({"event": "one"})
    first, offset = home.events()
    home.record({"event": "two"})
    second, end = home.events(offset)
    assert [event["event"] for event in first + second] == ["one", "two"]
    assert home.events(end) == ([], end)


def test_a_line_that_is_not_complete_yet_is_left_for_later(home: AggregatorHome) -> None:
    home.record({"event": "one"})
    with home.events_file.open("a") as file:
        file.write('{"event": "tw')
    rows, offset = home.events()
    assert [row["event"] for row in rows] == ["one"]
    with home.events_file.open("a") as file:
        file.write('o"}\n')
    assert [row["event"] for row in home.events(offset)[0]] == ["two"]


def test_a_line_torn_by_a_full_disk_does_not_hide_what_comes_after(home: AggregatorHome) -> None:
    home.record({"event": "one"})
    with home.events_file.open("a") as file:
        file.write('{"event": "tw')
    home.record({"event": "three"})
    events = [row["event"] for row in home.events()[0]]
    assert (events[0], events[-1]) == ("one", "three")

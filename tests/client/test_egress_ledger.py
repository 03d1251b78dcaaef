"""The egress ledger is whole or says where it is not, and a kill loses nothing that left."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gobelin.client.egress_ledger import Departure, EgressLedger, total
from gobelin.shared.errors import EgressError

MADE = Departure("contribution", 3, "int4", "d" * 64, 1000, 184, ("loss",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "egress.jsonl"


def ledger(file: Path, at: float = 100.0) -> EgressLedger:
    return EgressLedger(file, lambda: at)


def fill(file: Path, departures: int = 3) -> list[dict[str, object]]:
    book = ledger(file)
    for _ in range(departures):
        number = book.leaving(MADE)
        book.left(number, 1500, {"PushMessages": 1, "PushObject": 4})
        book.session(90, {"PullMessages": 2})
    return book.records()


def test_what_was_recorded_adds_up_also_for_the_next_process(file: Path) -> None:
    fill(file)
    totals = total(ledger(file).records())
    assert (totals.records, totals.departures, totals.payload_bytes) == (9, 3, 3000)
    assert (totals.wire_bytes, totals.requests) == (3 * 1590, 3 * 7)
    assert ledger(file).sent_since(0) == 3 * 1184
    assert ledger(file).sent_since(101) == 0


def test_what_is_about_to_leave_is_on_disk_before_it_does(file: Path) -> None:
    number = ledger(file).leaving(MADE)
    (row,) = ledger(file).records()  # as after a kill
    assert (row["number"], row["kind"], row["digest"]) == (number, "leaving", MADE.digest)
    assert total([row]).departures == 0  # whether it left nobody knows


def test_every_changed_dropped_or_moved_line_is_found(file: Path) -> None:
    fill(file)
    lines = file.read_bytes().splitlines(True)
    for place in range(len(lines) - 1):
        for damaged in (
            [*lines[:place], *lines[place + 1 :]],
            [*lines[:place], lines[place], *lines[place:]],
            [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
        ):
            file.write_bytes(b"".join(damaged))
            with pytest.raises(EgressError, match="damaged"):
                ledger(file).records()
    for place, line in enumerate(lines):
        row = json.loads(line)
        for key in row:
            changed = {**row, key: "x" if row[key] != "x" else "y"}
            text = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            file.write_bytes(b"".join([*lines[:place], text, *lines[place + 1 :]]))
            with pytest.raises(EgressError, match=f"record {place} "):
                ledger(file).records()
    file.write_bytes(b"\xff\n")
    with pytest.raises(EgressError):
        ledger(file).leaving(MADE)  # nothing leaves that cannot be put on record


def test_what_a_kill_leaves_of_a_line_is_no_record(file: Path) -> None:
    before = fill(file, 1)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"number": 3, "at"')
    assert ledger(file).records() == before
    book = ledger(file)
    book.leaving(MADE)
    assert len(book.records()) == len(ledger(file).records()) == 4


def test_several_writers_take_turns_at_one_chain(file: Path) -> None:
    """A node that runs, its renewals, and `gobelin node roster` beside it."""
    one, other = ledger(file), ledger(file)
    number = one.leaving(Departure("contribution", 1, "int4", "d" * 64, 100))
    other.call("Roster", b"request")
    one.left(number, 120, {"PushObject": 2})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: (one, other)[n % 2].call("Status", bytes(n)), range(20)))
    rows = ledger(file).records()  # the chain is whole
    assert [row["number"] for row in rows] == list(range(23))
    assert sorted(row["wire_bytes"] for row in rows[3:]) == list(range(20))
    assert total(rows).wire_bytes == 120 + len(b"request") + sum(range(20))


def test_a_writer_of_months_holds_no_records(file: Path) -> None:
    """And knows what left in the last day, by whomever it was written."""
    hours = itertools.count()
    book, other = (EgressLedger(file, lambda: 3600.0 * next(hours)) for _ in range(2))
    book.leaving(MADE)
    before = held_by(book)
    for _ in range(100):
        other.leaving(MADE)
        book.leaving(MADE)
    assert len(book.records()) == 201
    assert book.sent_since(3600.0 * (200 - 24)) == 25 * 1184
    assert held_by(book) < before + 60 * 200  # what left in two days


def held_by(book: EgressLedger) -> int:
    """Characters of what a ledger keeps in memory between two records."""
    return len(repr(vars(book)))


def test_a_cut_off_end_is_found_by_nobody_and_goes_on(file: Path) -> None:
    """It is what an owner may do: see the module; the chain before it holds."""
    book = ledger(file)
    book.leaving(MADE)
    size = file.stat().st_size
    book.leaving(MADE)
    with file.open("r+b") as cut:
        cut.truncate(size)
    assert book.leaving(MADE) == 1
    assert len(ledger(file).records()) == 2


def test_the_ledger_is_its_owners_alone(file: Path) -> None:
    fill(file, 1)
    assert file.stat().st_mode & 0o777 == 0o600

"""The journal: what was appended is read back, up to the first line that is not whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.protocols.bundle import WireArray
from gobelin.server.courier import Reply
from gobelin.server.journal import Journal
from gobelin.server.round_events import (
    Asked,
    Closed,
    Convened,
    Counted,
    Durable,
    Lost,
    Seat,
    Voided,
)
from tests.vanishing import vanishing

EVENTS: list[Durable] = [
    Convened(
        1.5,
        "ab",
        2,
        {"id-1": Seat("north", "north-1"), "id-2": Seat("south", "s")},
        {3: frozenset({"id-1"}), 4: frozenset()},
    ),
    Counted(
        2.25, "id-1", 5, {"node": "north-1", "bytes": 7, "metrics": {"loss": 0.1}, "codec": "x"}
    ),
    Lost(3.0, "id-1", 5),
    Voided(4.0, "1 of 2 members contributed, none yet from söuth"),
    Closed(5.0),
]
ASKED = Asked("id-1", 5)
REPLY = Reply(
    "id-1",
    b"header",
    {
        "a": WireArray("float32", (3,), "gobelin.int4", b"\x00\xff"),
        "b": WireArray("x", (), "", b""),
        "moments": WireArray("x", (1,), "", b"a"),  # a segment may be called so
    },
    moments=WireArray("uint8", (2,), "gobelin.moments", b"\x01\x02"),
)


def filled(folder: Path) -> Journal:
    journal = Journal(folder)
    for event in EVENTS:
        journal.append(event)
    return journal


def test_events_are_read_back_by_whoever_comes_next(tmp_path: Path) -> None:
    assert Journal(tmp_path / "journal").events() == []
    filled(tmp_path / "journal")
    assert Journal(tmp_path / "journal").events() == EVENTS


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_torn_tail_hides_nothing_before_it_and_nothing_after_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    filled(folder)
    file = folder / "journal.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    whole = data.draw(st.integers(0, len(lines) - 1))
    torn = data.draw(st.integers(0, len(lines[whole]) - 1))
    file.write_bytes(b"".join(lines[:whole]) + lines[whole][:torn])
    journal = Journal(folder)
    assert journal.events() == EVENTS[:whole]
    journal.append(EVENTS[-1])
    assert Journal(folder).events() == [*EVENTS[:whole], EVENTS[-1]]


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_a_flipped_bit_ends_what_is_believed(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    filled(folder)
    file = folder / "journal.jsonl"
    data = bytearray(file.read_bytes())
    place %= len(data)
    data[place] ^= 1 << bit
    file.write_bytes(data)
    before = bytes(data[:place]).count(b"\n")
    assert Journal(folder).events() == EVENTS[:before]


def test_a_full_disk_takes_back_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            journal.append(Lost(6.0, "id-2", 5))
    journal.append(Closed(7.0))
    assert Journal(tmp_path).events() == [*EVENTS, Closed(7.0)]


def test_a_reply_is_read_back_as_it_came(tmp_path: Path) -> None:
    Journal(tmp_path).keep(ASKED, REPLY)
    assert Journal(tmp_path).reply(ASKED) == REPLY
    assert Journal(tmp_path).reply(Asked("id-2", 5)) is None


@pytest.mark.parametrize("length", [0, 4, 9, 60, -1])
def test_half_a_reply_is_none(length: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep(ASKED, REPLY)
    (file,) = tmp_path.glob("*.reply")
    file.write_bytes(file.read_bytes()[:length])
    assert journal.reply(ASKED) is None


def test_a_cleared_journal_is_empty_and_can_be_used_again(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal")
    journal.keep(ASKED, REPLY)
    journal.clear()
    assert not (tmp_path / "journal").exists()
    assert journal.events() == []
    journal.append(Closed(1.0))
    assert Journal(tmp_path / "journal").events() == [Closed(1.0)]


def test_a_journal_that_is_cleared_while_somebody_looks_has_nothing_to_say(tmp_path: Path) -> None:
    filled(tmp_path / "journal")
    with vanishing(tmp_path / "journal"):
        assert Journal(tmp_path / "journal").events() == []

"""The roster log is a chain that the aggregator has signed: nothing in it can be changed unseen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gobelin.protocols.enrolment import ADMIT, LEAVE, PURPOSE_RECORD, REVOKE, ROLE, RosterRecord
from gobelin.shared.errors import RosterError
from gobelin.shared.roster_log import RosterLog, Signed, require_same_history
from tests.keys import entry, signing_key

AGGREGATOR = signing_key(100)
DIGEST = "ab" * 32


def log() -> RosterLog:
    return RosterLog(DIGEST, AGGREGATOR.public)


def add(to: RosterLog, change: str, number: int, **other: Any) -> Signed:
    node = entry(f"member-{number}", f"node-{number}", number)
    record = RosterRecord(
        index=len(to.records),
        previous=to.head,
        change=change,
        member=node.member,
        node=node.name,
        public_key=node.public_key,
        signing_key=node.signing_key,
        role="contributor",
        reason="",
        at=1_900_000_000,
    )
    record = dataclasses.replace(record, **other)
    signed = Signed(record, AGGREGATOR.sign(PURPOSE_RECORD, record.to_bytes()))
    to.add(signed)
    return signed


def of_three() -> RosterLog:
    made = log()
    add(made, ADMIT, 1)
    add(made, ADMIT, 2)
    add(made, ROLE, 2, role="observer")
    add(made, REVOKE, 1)
    add(made, ADMIT, 1)
    add(made, LEAVE, 2)
    return made


def test_the_roster_is_what_the_records_add_up_to() -> None:
    made = of_three()
    assert [record.node for record in made.current.values()] == ["node-1"]
    again = log()
    again.extend(made.records)
    assert again.head == made.head
    assert again.current == made.current


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RosterRecord)])
def test_a_change_of_any_field_of_any_record_is_found(name: str) -> None:
    records = of_three().records
    for place, signed in enumerate(records):
        value = getattr(signed.record, name)
        other = value + 1 if isinstance(value, int) else value + "x"
        changed = Signed(dataclasses.replace(signed.record, **{name: other}), signed.signature)
        with pytest.raises(RosterError):
            log().extend([*records[:place], changed, *records[place + 1 :]])


def test_records_left_out_exchanged_or_repeated_are_found() -> None:
    records = of_three().records
    others = [records[1:], [records[1], records[0], *records[2:]], [records[0], *records]]
    others += [[*records[:2], *records[3:]]]
    for other in others:
        with pytest.raises(RosterError):
            log().extend(other)


def test_a_log_of_another_federation_or_another_key_is_found() -> None:
    records = of_three().records
    for other in (
        RosterLog("cd" * 32, AGGREGATOR.public),
        RosterLog(DIGEST, signing_key(9).public),
    ):
        with pytest.raises(RosterError):
            other.extend(records)


def test_a_log_that_was_rewritten_behind_a_head_that_was_seen_is_found() -> None:
    made = of_three()
    require_same_history(made.records, len(made.records), made.head)
    require_same_history(made.records, 2, made.records[1].record.digest)
    with pytest.raises(RosterError, match="rewritten"):
        require_same_history(made.records[:-1], len(made.records), made.head)
    fork = log()
    add(fork, ADMIT, 3)
    add(fork, ADMIT, 4)
    with pytest.raises(RosterError, match="rewritten"):
        require_same_history(fork.records, 2, made.records[1].record.digest)


@pytest.mark.parametrize(
    ("change", "number", "other"),
    [
        (ADMIT, 1, {}),  # on it already
        (REVOKE, 3, {}),  # not on it
        (LEAVE, 3, {}),
        (ROLE, 1, {"role": "king"}),
        ("crown", 1, {}),
        (REVOKE, 1, {"node": "another"}),
        (ADMIT, 3, {"public_key": "no key"}),
    ],
)
def test_what_the_aggregator_signed_must_still_make_sense(
    change: str, number: int, other: dict[str, str]
) -> None:
    made = log()
    add(made, ADMIT, 1)
    with pytest.raises(RosterError):
        add(made, change, number, **other)
    assert len(made.records) == 1

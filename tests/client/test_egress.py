"""The gate at the connection: what was not cleared does not pass, what passes is on record."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message

from gobelin.client.egress import Egress
from gobelin.client.egress_ledger import Departure, EgressLedger, total
from gobelin.client.fleet import Turnstile
from gobelin.client.home import NodeHome
from gobelin.client.records import contribution_record, cosigned, describe
from gobelin.protocols.ledger import COSIGNATURE, Cosignature
from gobelin.protocols.messages import DELTA, HEADER, MOMENTS, PAYLOAD
from gobelin.shared.errors import EgressError
from tests.client.contributing import BASE, Node, home_at, plan

MADE = Departure("contribution", 1, "int8", "d" * 64, 3000)
NOON = datetime.datetime(2026, 5, 1, 12, 0).timestamp()


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return home_at(tmp_path)


class Clock:
    """Wall time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = NOON
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def egress(home: NodeHome, clock: Clock) -> Egress:
    return Egress(home, clock, clock.sleep)


def records(home: NodeHome) -> list[dict[str, Any]]:
    return EgressLedger(home.egress_file).records()


def test_an_upload_passes_only_as_part_of_a_departure_that_is_on_record(
    home: NodeHome, egress: Egress
) -> None:
    for method in ("PushMessages", "PushObject"):
        with pytest.raises(EgressError, match="not cleared"):
            egress.request(method, 10, "a")
    egress.request("PullMessages", 7)
    with egress.departing(MADE, frozenset({"a", "b"})):
        session, leaving = records(home)
        assert (session["kind"], session["requests"]) == ("session", {"PullMessages": 1})
        assert (leaving["kind"], leaving["digest"]) == ("leaving", MADE.digest)
        egress.request("PushMessages", 100, "a")
        egress.request("PushObject", 1000, "b")
        egress.request("SendNodeHeartbeat", 5)
        with pytest.raises(EgressError, match="not cleared"):
            egress.request("PushObject", 1000, "c")
    with pytest.raises(EgressError, match="not cleared"):
        egress.request("PushObject", 1000, "b")
    egress.note_session()
    totals = total(records(home))
    assert (totals.departures, totals.wire_bytes, totals.requests) == (1, 1112, 4)


def test_a_request_that_nobody_knows_does_not_pass(egress: Egress) -> None:
    with pytest.raises(EgressError, match="'GetFab'"):
        egress.request("GetFab", 10)


def test_the_connection_asks_the_gate_before_every_request(egress: Egress) -> None:
    gate, sent = Turnstile(egress), list[Any]()

    def ask(method: str, **fields: Any) -> None:
        request = SimpleNamespace(ByteSize=lambda: 9, **fields)
        details = SimpleNamespace(method=f"/flwr.proto.Fleet/{method}")
        gate.intercept_unary_unary(lambda *args: sent.append(args), details, request)

    ask("PullObject", object_id="x")
    with pytest.raises(EgressError):
        ask("PushObject", object_id="x")
    with pytest.raises(EgressError):
        ask("PushMessages", message_object_trees=[SimpleNamespace(object_id="x")])
    assert len(sent) == 1
    with egress.departing(MADE, frozenset("x")):
        ask("PushObject", object_id="x")
    assert len(sent) == 2


def test_a_contribution_waits_for_the_hours_and_an_answer_does_not(
    home: NodeHome, egress: Egress, clock: Clock
) -> None:
    home.policy_file.write_text('hours = "12:30-13:00"\n')
    said: list[str] = []
    egress.wait(Departure("answer", code="gobelin:not_spooled"), said.append)
    assert not said
    egress.wait(MADE, said.append)
    assert said == [
        "policy.toml opens at 12:30-13:00; the contribution stays in the spool until then"
    ]
    assert clock.now - NOON == 1800


def test_a_day_that_is_spent_is_waited_for(home: NodeHome, egress: Egress, clock: Clock) -> None:
    home.policy_file.write_text("max_mb_per_day = 0.005\n")
    egress.wait(MADE, pytest.fail)
    with egress.departing(MADE, frozenset()):
        clock.sleep(60)
    said: list[str] = []
    egress.wait(MADE, said.append)
    assert said == ["the day's bytes are spent; the contribution stays in the spool until then"]
    assert clock.now - NOON >= 86400


def test_the_rate_is_held_while_a_contribution_leaves(
    home: NodeHome, egress: Egress, clock: Clock
) -> None:
    home.policy_file.write_text("max_mb_per_second = 0.001\n")
    with egress.departing(MADE, frozenset("a")):
        egress.request("PushObject", 2000, "a")
    assert clock.slept == [pytest.approx(2.0, abs=0.5)]


def test_a_damaged_ledger_lets_nothing_leave(home: NodeHome, egress: Egress) -> None:
    home.egress_file.write_bytes(b'{"number":0}\n')
    with pytest.raises(EgressError, match="damaged"), egress.departing(MADE, frozenset("a")):
        pytest.fail("it left")


def reply(content: RecordDict | Error) -> Message:
    metadata = Metadata(1, "m", 7, 0, "1", "", 0.0, 60.0, "train")
    if isinstance(content, Error):
        return make_message(metadata, error=content)
    return make_message(metadata, content)


def test_what_leaves_is_known_by_its_kind(home: NodeHome) -> None:
    done = Node(home)(plan(1, BASE, cross_node=True), BASE)
    made = describe(reply(contribution_record(done)))
    assert (made.purpose, made.round, made.codec) == ("contribution", 1, "fp32")
    assert (made.payload_bytes, made.moments_bytes) == (done.payload.size, len(done.moments))
    assert made.digest == done.contribution.digest
    assert describe(reply(Error(100, "gobelin:data"))) == Departure("answer", code="gobelin:data")
    assert describe(reply(RecordDict())) == Departure("acknowledgement")
    word = Cosignature("fed", 3, "0" * 64, 1, "0" * 128).to_bytes()
    beside = describe(reply(cosigned(contribution_record(done), word)))
    assert beside == dataclasses.replace(made, cosigned=3, cosignature_bytes=len(word))
    alone = describe(reply(cosigned(RecordDict(), word)))
    assert alone == Departure("acknowledgement", cosigned=3, cosignature_bytes=len(word))

    def spoilt(change: Callable[[RecordDict], object]) -> Message:
        record = contribution_record(done)
        change(record)
        return reply(record)

    extra = Array("uint8", (1,), "gobelin.moments", b"x")
    for other in (
        reply(Error(100, "/home/patients.csv is unreadable")),
        reply(Error(7, "gobelin:data")),
        spoilt(lambda r: r.update(extra=ConfigRecord({"path": "/home"}))),
        spoilt(lambda r: r.update({HEADER: ConfigRecord({PAYLOAD: b"{}"})})),
        spoilt(lambda r: r[HEADER].update(path="/home")),
        spoilt(lambda r: r[DELTA].update(more=extra)),
        spoilt(lambda r: r[MOMENTS].update(more=extra)),
        spoilt(lambda r: r.update({MOMENTS: ArrayRecord({"labels": extra})})),
        reply(RecordDict({"labels": ArrayRecord({"labels": extra})})),
        reply(RecordDict({COSIGNATURE: ArrayRecord({"labels": extra})})),
        reply(cosigned(RecordDict(), b"/home/patients.csv")),
        reply(RecordDict({COSIGNATURE: ConfigRecord({PAYLOAD: word, "path": "/home"})})),
        spoilt(lambda r: r.update({COSIGNATURE: ConfigRecord({PAYLOAD: word, "path": "/home"})})),
    ):
        with pytest.raises(EgressError):
            describe(other)

"""The node's mail: of several plans only the newest is trained for, recalls are answered first."""

from __future__ import annotations

import itertools

import pytest
from flwr.app import (
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    Metadata,
    RecordDict,
)
from flwr.app.message import make_message

from gobelin.client import link, records
from gobelin.client.fleet import Mail
from gobelin.client.home import NodeStatus
from gobelin.protocols.ledger import LEDGER
from gobelin.protocols.messages import (
    HEADER,
    NOT_SPOOLED,
    PAUSED,
    PAYLOAD,
    RECALL,
    RECEIPTS,
    SUPERSEDED,
    RoundPlan,
)
from gobelin.shared.errors import LedgerError, StateError
from gobelin.shared.pausing import Pause

TRAIN, QUERY = MessageType.TRAIN, MessageType.QUERY


class Box:
    """A connection whose mail is given; what is fetched and declined is kept."""

    reason = SUPERSEDED  # of what is declined

    def __init__(self, *batches: list[tuple[str, str]]) -> None:
        self.batches = [[mail(name, kind) for name, kind in batch] for batch in batches]
        self.declined: list[str] = []
        self.sessions = 1

    def come_back(self) -> None:
        self.sessions += 1

    def settle(self) -> None:
        """Nothing is in doubt."""

    def pull(self) -> Mail | None:
        if self.batches and self.batches[0]:
            return self.batches[0].pop(0)
        self.batches = self.batches[1:]
        return None

    def fetch(self, mail: Mail) -> Message | None:
        return None if "ended" in mail.objects[0] else mail.message

    def decline(self, mail: Mail, error: Error) -> None:
        assert error.reason == self.reason
        self.declined.append(mail.objects[0])


def mail(name: str, kind: str) -> Mail:
    metadata = Metadata(1, name, 0, 7, "", name, 0.0, 60.0, kind)
    return Mail(make_message(metadata, RecordDict()), [name])


def answered(box: Box, count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(link.time, "sleep", lambda _: None)
    said = link._messages(box, lambda called: False, lambda: None, lambda _: None)
    messages = itertools.islice(said, count)
    return [message.metadata.group_id for message in messages]


def test_plans_that_a_newer_one_has_overtaken_are_declined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Box([("3", TRAIN), ("4", TRAIN), ("5", TRAIN)], [], [("6", TRAIN)])
    assert answered(box, 2, monkeypatch) == ["5", "6"]
    assert box.declined == ["3", "4"]


def test_what_is_finished_is_sent_before_more_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box([("5", TRAIN), ("recall 4", RECALL), ("6", TRAIN), ("recall 5", RECALL)])
    assert answered(box, 3, monkeypatch) == ["recall 4", "recall 5", "6"]
    assert box.declined == ["5"]


def test_a_farewell_is_heard_before_any_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box([("5", TRAIN), ("farewell", QUERY)])
    assert answered(box, 1, monkeypatch) == ["farewell"]


def test_mail_of_a_run_that_has_ended_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box([("ended", TRAIN)], [("2", TRAIN)])
    assert answered(box, 1, monkeypatch) == ["2"]


def test_a_paused_node_declines_plans_and_answers_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link.time, "sleep", lambda _: None)
    box = Box([("5", TRAIN), ("recall 4", RECALL)], [("6", TRAIN)], [("7", TRAIN)])
    box.reason = PAUSED
    held = Pause("the cluster is full", 0)
    pauses = iter([held, held, None])  # at every look
    said: list[NodeStatus] = []
    messages = itertools.islice(
        link._messages(box, lambda called: False, lambda: next(pauses), said.append), 2
    )
    assert [message.metadata.group_id for message in messages] == ["recall 4", "7"]
    assert box.declined == ["5", "6"]
    assert [(status.state, "the cluster is full" in status.note) for status in said] == [
        ("paused", True),
        ("idle", False),
    ]
    assert box.sessions == 2  # come back, it is asked again


def test_a_recall_that_a_damaged_spool_cannot_answer_is_told_to_the_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Torn:
        class envelopes:
            open_recall = staticmethod(lambda plan, signed, receipts: None)

        def finished(self, plan: RoundPlan, envelope: None) -> None:
            raise StateError("round-00001 is damaged", "remove it")

    plan = RoundPlan("fed", 1, 2, "{}", "s", "b", 3, 0, 60.0)
    said: list[NodeStatus] = []
    monkeypatch.setattr(link, "_contributor", lambda home: Torn())
    monkeypatch.setitem(link._watchers, "here", said.append)
    content = RecordDict(
        {
            HEADER: ConfigRecord({PAYLOAD: plan.to_bytes()}),
            RECEIPTS: ConfigRecord({PAYLOAD: []}),
        }
    )
    asked = make_message(Metadata(1, "m", 0, 7, "", "", 0.0, 60.0, RECALL), content)
    context = Context(1, 7, {link.HOME_KEY: "here"}, RecordDict(), {})
    reply = link.app(asked, context)
    assert reply.error.reason == NOT_SPOOLED
    assert ["round-00001 is damaged" in status.note for status in said] == [True]


def test_an_offer_that_shows_no_ledger_is_refused() -> None:
    shown = [RecordDict(), RecordDict({LEDGER: ConfigRecord({"head": b"{}"})})]
    for content in shown:
        with pytest.raises(LedgerError, match="shows nothing of its ledger"):
            records.read_ledger(content)

"""A node's session with the SuperLink: in doubt it begins anew, so that the node is asked again."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesResponse,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import PushObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from gobelin.client import fleet as fleet_module
from gobelin.client.fleet import FleetConnection, Mail
from gobelin.client.home import NodeSettings, found_node
from gobelin.shared.errors import UnknownNodeError
from gobelin.shared.keys import write_authority

ANEW = ["DeactivateNode", "ActivateNode"]


class Failed(grpc.RpcError, grpc.Call):
    """A request's answer that is a status code."""

    __abstractmethods__ = frozenset()

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = lambda: code


class Fleet:
    """The Fleet API of a SuperLink that has no message; what is in `failures` happens first."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        self.beats: list[int] = []  # node ids
        self.beaten = threading.Event()
        self.refuses = 0  # of the objects that are pushed next
        self.answers = {
            "ActivateNode": ActivateNodeResponse(node_id=5),
            "DeactivateNode": DeactivateNodeResponse(),
            "PullMessages": PullMessagesResponse(),
            "PushMessages": PushMessagesResponse(),
            "PushObject": PushObjectResponse(stored=True),
            "SendNodeHeartbeat": None,
        }

    def stub(self, channel: object) -> Any:
        return SimpleNamespace(**{name: self._method(name) for name in self.answers})

    def _method(self, name: str) -> Any:
        def call(request: Any, timeout: float | None = None, **how: Any) -> Any:
            if name == "SendNodeHeartbeat":  # at times of their own
                self.beats.append(request.node.node_id)
                self.beaten.set()
            else:
                self.calls.append(name)
            if self.failures.get(name):
                raise Failed(self.failures[name].pop(0))
            if name == "PushObject" and self.refuses:
                self.refuses -= 1
                return PushObjectResponse(stored=False)
            return self.answers[name]

        return call

    def since(self) -> list[str]:
        """The calls since it was last asked."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet()
    channel = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(fleet_module.grpc, "secure_channel", lambda *args: channel)
    monkeypatch.setattr(fleet_module.grpc, "intercept_channel", lambda channel, *args: channel)
    monkeypatch.setattr(fleet_module, "FleetStub", fleet.stub)
    monkeypatch.setattr(fleet_module, "BACKOFF_MAX_S", 0.01)
    monkeypatch.setattr(fleet_module.time, "sleep", lambda seconds: None)
    return fleet


@pytest.fixture
def connection(tmp_path: Path, fleet: Fleet) -> FleetConnection:
    write_authority(tmp_path / "tls", "fed", ["localhost"])
    settings = NodeSettings(
        member="north", node="north", aggregator="localhost:1", data={"path": str(tmp_path)}
    )
    home = found_node(tmp_path / "home", settings, tmp_path / "tls" / "ca.pem")
    return FleetConnection(home, lambda status: None)


def ask(connection: FleetConnection) -> Mail | None:
    """What a node does when it looks for mail."""
    connection.settle()
    return connection.pull()


def reply() -> Message:
    asked = Message(RecordDict(), 5, "train")
    asked.metadata.__dict__["_message_id"] = "7"
    return Message(RecordDict(), reply_to=asked)


def test_the_first_session_has_none_to_end(connection: FleetConnection, fleet: Fleet) -> None:
    with connection:
        assert fleet.since() == ["ActivateNode"]
        assert ask(connection) is None
        assert ask(connection) is None
        assert fleet.since() == ["PullMessages", "PullMessages"]


def test_after_lost_contact_the_session_begins_anew(
    connection: FleetConnection, fleet: Fleet
) -> None:
    with connection:
        fleet.failures["PullMessages"] = [grpc.StatusCode.UNAVAILABLE]
        assert ask(connection) is None  # perhaps a message was about to be handed over
        fleet.since()
        ask(connection)
        ask(connection)
        assert fleet.since() == [*ANEW, "PullMessages", "PullMessages"]


@pytest.mark.parametrize(
    ("code", "then"),
    [
        (grpc.StatusCode.INTERNAL, [*ANEW, "PullMessages"]),
        (grpc.StatusCode.PERMISSION_DENIED, ["PullMessages"]),  # its run is over
    ],
)
def test_a_reply_that_is_refused_is_asked_for_again_while_its_run_lasts(
    connection: FleetConnection, fleet: Fleet, code: grpc.StatusCode, then: list[str]
) -> None:
    with connection:
        fleet.failures["PushMessages"] = [code]
        assert not connection.send(reply(), 1.0)
        fleet.since()
        ask(connection)
        assert fleet.since() == then


def test_a_reply_is_whole_only_once_it_may_be_known(
    connection: FleetConnection, fleet: Fleet
) -> None:
    sent, before = reply(), list[str]()
    objects = list(get_all_nested_objects(sent))
    assert len(objects) > 1
    fleet.answers["PushMessages"] = PushMessagesResponse(objects_to_push=objects)
    with connection:
        fleet.since()
        connection.send(sent, 1.0, lambda: before.extend(fleet.since()))
        assert before == ["PushMessages", *["PushObject"] * (len(objects) - 1)]
        assert fleet.since() == ["PushObject"]


def test_a_reply_that_may_not_be_known_is_never_whole(
    connection: FleetConnection, fleet: Fleet
) -> None:
    def full() -> None:
        raise OSError("no space left")

    sent = reply()
    objects = list(get_all_nested_objects(sent))
    fleet.answers["PushMessages"] = PushMessagesResponse(objects_to_push=objects)
    with connection:
        fleet.since()
        with pytest.raises(OSError, match="no space"):
            connection.send(sent, 1.0, full)
        assert fleet.since().count("PushObject") == len(objects) - 1


def test_an_object_whose_answer_was_lost_is_not_sent_from_the_beginning(
    connection: FleetConnection, fleet: Fleet
) -> None:
    """The SuperLink has it and refuses it a second time: the upload goes on all the same."""
    sent = reply()
    objects = list(get_all_nested_objects(sent))
    fleet.answers["PushMessages"] = PushMessagesResponse(objects_to_push=objects)
    fleet.failures["PushObject"] = [grpc.StatusCode.UNAVAILABLE]
    fleet.refuses = 1  # what it has already
    with connection:
        fleet.since()
        assert connection.send(sent, 1.0) is not None
        assert fleet.since().count("PushObject") == len(objects) + 1
        ask(connection)
        assert fleet.since() == ["PullMessages"]  # nothing is in doubt, and nothing is asked again


def test_an_object_that_is_refused_at_once_ends_the_upload(
    connection: FleetConnection, fleet: Fleet
) -> None:
    sent = reply()
    objects = list(get_all_nested_objects(sent))
    fleet.answers["PushMessages"] = PushMessagesResponse(objects_to_push=objects)
    fleet.refuses = 1  # the upload was given up over there
    with connection:
        fleet.since()
        assert connection.send(sent, 1.0) is None
        fleet.since()
        ask(connection)
        assert fleet.since() == [*ANEW, "PullMessages"]


def test_an_announcement_whose_answer_was_lost_is_in_doubt_where_nothing_is_wanted(
    connection: FleetConnection, fleet: Fleet
) -> None:
    fleet.failures["PushMessages"] = [grpc.StatusCode.UNAVAILABLE]
    with connection:
        connection.send(reply(), 1.0)
        fleet.since()
        ask(connection)
        assert fleet.since() == [*ANEW, "PullMessages"]


def test_objects_go_one_by_one_where_the_way_is_known_to_be_slow(
    connection: FleetConnection, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []

    def push_objects(*args: Any, max_concurrent_pushes: int = 0, **how: Any) -> None:
        at_once.append(max_concurrent_pushes)

    monkeypatch.setattr(fleet_module, "push_objects", push_objects)
    with connection:
        connection.send(reply(), 1.0)
        connection._uplink.note(1000, 1.0)
        connection.send(reply(), 1.0)
    usual = fleet_module.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES
    assert at_once == [usual, 0, 1, 0]  # the last object goes alone at any rate


def test_only_a_key_that_is_not_accepted_ends_the_node(
    connection: FleetConnection, fleet: Fleet
) -> None:
    with connection:
        fleet.failures["PullMessages"] = [
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNAUTHENTICATED,
        ]
        assert ask(connection) is None
        with pytest.raises(UnknownNodeError, match="no longer accepts"):
            ask(connection)


def test_a_session_that_could_not_be_ended_is_ended_before_the_next_try(
    connection: FleetConnection, fleet: Fleet
) -> None:
    with connection:
        fleet.failures["PullMessages"] = [grpc.StatusCode.UNAVAILABLE]
        ask(connection)
        fleet.since()
        fleet.failures["DeactivateNode"] = [grpc.StatusCode.UNAVAILABLE]
        fleet.failures["ActivateNode"] = [grpc.StatusCode.FAILED_PRECONDITION]  # still online
        ask(connection)
        assert fleet.since() == [*ANEW, *ANEW, "PullMessages"]


def test_refusals_are_counted_and_not_the_time_without_an_answer(
    connection: FleetConnection, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(fleet_module.time, "monotonic", lambda: float(next(hours)))
    unknown = grpc.StatusCode.PERMISSION_DENIED
    fleet.failures["ActivateNode"] = [unknown] * (fleet_module.REFUSALS - 1)
    with connection:
        assert fleet.since().count("ActivateNode") == fleet_module.REFUSALS


def test_a_key_that_stays_unknown_ends_the_node(connection: FleetConnection, fleet: Fleet) -> None:
    unknown = grpc.StatusCode.PERMISSION_DENIED
    fleet.failures["ActivateNode"] = [unknown] * fleet_module.REFUSALS
    with pytest.raises(UnknownNodeError, match="does not know"), connection:
        pass


def test_heartbeats_are_those_of_the_last_session(
    connection: FleetConnection, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "HEARTBEAT_EVERY_S", 0.01)
    with connection:
        fleet.answers["ActivateNode"] = ActivateNodeResponse(node_id=6)  # admitted once more
        connection._doubtful = True
        connection.settle()
        fleet.beats.clear()
        assert fleet.beaten.wait(10)
        fleet.beaten.clear()  # one that was under way may still have been of the session before
        assert fleet.beaten.wait(10)
        assert fleet.beats[-1] == 6

"""The courier over Flower's Grid: what is still on its way keeps nobody waiting, what is lost is
asked for again."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from gobelin.protocols.bundle import ENCODING_BUNDLE
from gobelin.protocols.messages import DELTA, ENCODING, HEADER, PAYLOAD, Farewell
from gobelin.server.courier import Parcel
from gobelin.server.engine import GridCourier
from gobelin.server.limits import SMALL
from gobelin.server.uploads import Uploads
from gobelin.shared.keys import fingerprint, make_key, public_pem
from gobelin.shared.vector import DTYPE

FAREWELL = Farewell("fed", 1, "00")
KEY = public_pem(make_key().public_key())


def made(key: int, content: RecordDict | Error) -> Message:
    """A node's reply to message `key`, as it stands in the SuperLink."""
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = str(key)
    reply = Message(content, reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def contribution() -> RecordDict:
    delta = ArrayRecord({"0": Array(DTYPE, (1,), ENCODING, b"\0\0\0\0")})
    return RecordDict({HEADER: ConfigRecord({PAYLOAD: b"header"}), DELTA: delta})


class SuperLink:
    """The Runtime API, with one reply of which some objects have been uploaded."""

    def __init__(self, reply: Message) -> None:
        self.reply = reply
        self.objects = {k: o.deflate() for k, o in get_all_nested_objects(reply).items()}
        self.uploaded = set[str]()
        self.pulled: list[str] = []
        self.confirmed: list[str] = []
        self.asked: list[list[str]] = []

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        self.asked.append(list(request.message_ids))
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(self.reply))],
            message_object_trees=[get_object_tree(self.reply)],
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        self.pulled.append(request.object_id)
        there = request.object_id in self.uploaded
        return PullObjectResponse(
            object_found=request.object_id in self.objects,
            object_available=there,
            object_content=self.objects[request.object_id] if there else b"",
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def link() -> SuperLink:
    return SuperLink(made(7, contribution()))


class Connected(HttpGrid):
    """Flower's grid, connected to a SuperLink of ours."""

    run = SimpleNamespace(run_id=3)

    def __init__(self, link: SuperLink) -> None:
        self.node = Node()
        self._client = link


def uploads(link: SuperLink) -> Uploads:
    return Uploads(Connected(link))


def arrived(coming: Uploads) -> list[Message]:
    coming.look(["7"])
    return coming.pull("7", SMALL)


def test_a_reply_is_pulled_once_it_is_whole(link: SuperLink) -> None:
    coming = uploads(link)
    *parts, last = link.objects
    assert arrived(coming) == []
    link.uploaded = set(parts)
    assert arrived(coming) == []
    assert set(link.pulled) == {last}  # nothing was fetched in vain
    link.uploaded = set(link.objects)
    (reply,) = arrived(coming)
    assert reply.content[HEADER][PAYLOAD] == b"header"
    assert reply.metadata.message_id == link.reply.metadata.message_id
    assert link.confirmed == [link.reply.metadata.message_id]


def test_all_nodes_replies_are_asked_for_at_once_and_those_on_their_way_no_more(
    link: SuperLink,
) -> None:
    coming = uploads(link)
    for _ in range(2):
        coming.look(["6", "7", "8"])
    assert link.asked == [["6", "7", "8"], ["6", "8"]]
    assert coming.pull("6", SMALL) == []
    coming.look(["7"])
    assert len(link.asked) == 2


def test_a_part_that_is_late_is_waited_for(link: SuperLink) -> None:
    coming = uploads(link)
    first, *rest = link.objects
    link.uploaded = set(rest)  # two parts at a time: the last need not be the last to arrive
    assert arrived(coming) == []
    link.uploaded.add(first)
    assert len(arrived(coming)) == 1


def test_a_bundle_that_is_none_is_malformed(grid: FakeGrid) -> None:
    courier = GridCourier(grid)
    (node,) = courier.nodes()
    courier.send([Parcel(node.id, FAREWELL, None)])
    content = contribution()
    content[DELTA] = ArrayRecord({"0": Array("uint8", (3,), ENCODING_BUNDLE, b"[]\nabc")})
    grid.replies["1"] = made(1, content)
    (reply,) = courier.replies()
    assert reply.error == "gobelin:malformed"


def test_a_reply_that_will_never_be_whole_is_an_error(link: SuperLink) -> None:
    coming = uploads(link)
    assert arrived(coming) == []
    link.objects.clear()  # the upload has lapsed
    (reply,) = arrived(coming)
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert not link.confirmed


@dataclass
class FakeGrid:
    """One node, and replies by the number of the message they answer."""

    replies: dict[str, Message] = field(default_factory=dict)
    pushed: int = 0

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(
                public_key=KEY, node_id=1, status="online", last_activated_at="2026-01-01"
            )
        ]

    def push_messages(self, messages: list[Message]) -> list[str]:
        self.pushed += len(messages)
        return [str(self.pushed)]

    def pull_messages(self, message_ids: list[str]) -> list[Message]:
        return [self.replies.pop(key) for key in message_ids if key in self.replies]


@pytest.fixture
def grid() -> FakeGrid:
    return FakeGrid()


LOST = Error(ErrorCode.NODE_UNAVAILABLE, "")


def test_what_is_lost_is_told(grid: FakeGrid) -> None:
    courier = GridCourier(grid)
    (node,) = courier.nodes()
    courier.send([Parcel(node.id, FAREWELL, None)])
    grid.replies["1"] = made(1, LOST)
    (reply,) = courier.replies()
    assert (reply.node, reply.plan, reply.lost) == (fingerprint(KEY), FAREWELL.digest, True)


def test_that_a_message_is_lost_which_was_sent_again_is_not_told(grid: FakeGrid) -> None:
    courier = GridCourier(grid)
    (node,) = courier.nodes()
    for _ in range(3):
        courier.send([Parcel(node.id, FAREWELL, None)])
    grid.replies = {"1": made(1, LOST), "3": made(3, contribution())}
    assert [(reply.header, reply.lost) for reply in courier.replies()] == [(b"header", False)]
    grid.replies = {"2": made(2, LOST)}  # late, after the answer
    assert list(courier.replies()) == []


def test_an_error_of_the_nodes_own_is_an_answer(grid: FakeGrid) -> None:
    courier = GridCourier(grid)
    (before,) = courier.nodes()
    courier.send([Parcel(before.id, FAREWELL, None)])
    grid.replies["1"] = made(1, Error(100, "gobelin:data"))
    (reply,) = courier.replies()
    assert (reply.error, reply.lost) == ("gobelin:data", False)

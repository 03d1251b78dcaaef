"""Replies that nodes are still uploading, and how much of them is read.

Beside engine.py, records.py and superlink.py the only module of the aggregator that imports flwr.
Flower's own pull waits for a reply whose upload is not complete: as long as a slow node takes, and
three minutes for one that was killed. Nobody else would be heard meanwhile. And it reads whatever a
node sends, as often as the reply says it should be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import httpx
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from gobelin.server.courier import MALFORMED, OVERSIZE
from gobelin.server.limits import Limit
from gobelin.server.objects import MOST_OF_ONE

OUR_ERROR = 100  # Flower error code of what carries one of our codes
PULL = "/pull-object"  # path of the request for an object


class Uploads:
    """Pulls replies from a grid, each once it is whole."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._coming: dict[str, tuple[ProtoMessage, list[str]]] = {}  # by the id they answer

    def look(self, message_ids: Iterable[str]) -> None:
        """Ask, once for all of these messages, which of them have a reply on its way."""
        if not isinstance(self._grid, HttpGrid):
            return
        unknown = [one for one in message_ids if one not in self._coming]
        if not unknown:
            return
        request = PullAppMessagesRequest(message_ids=unknown)
        response = self._grid._runtime_client.PullMessages(request)
        for message, tree in zip(
            response.messages_list, response.message_object_trees, strict=True
        ):
            objects = [node.object_id for node in iterate_object_tree(tree)]
            self._coming[message.metadata.reply_to_message_id] = (message, objects)

    def pull(self, message_id: str, limit: Limit) -> list[Message]:
        """The reply to a message, or an error in its place; nothing while it is on its way.

        What is larger than `limit` is not read any further than it takes to know that.
        """
        if not isinstance(self._grid, HttpGrid):  # in simulation nothing is ever on its way
            return list(self._grid.pull_messages([message_id]))
        client, run_id = self._grid._runtime_client, self._grid.run.run_id
        if message_id not in self._coming:
            return []
        message, objects = self._coming[message_id]
        if len(objects) > limit.objects:
            return self._refuse(message_id, OVERSIZE)
        _bound_bodies(client)
        budget = _Budget(limit.bytes)
        pull = _once(
            budget, make_pull_object_fn_protobuf(client.PullObject, self._grid.node, run_id)
        )
        try:
            pull(objects[-1])  # the last that a node uploads: nothing is fetched in vain
            budget.spent = 0
            contents = pull_objects(objects, pull)
            inflated = inflate(message.metadata.message_id, contents, limit)
        except _NotWhole:
            return []
        except TooLarge:
            return self._refuse(message_id, OVERSIZE)
        except Malformed:
            return self._refuse(message_id, MALFORMED)
        except ObjectPullError:
            del self._coming[message_id]
            error = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the upload was never completed")
            return [make_message(message_from_proto(message).metadata, error=error)]
        self._confirm(message_id)
        return [inflated]

    def _refuse(self, message_id: str, reason: str) -> list[Message]:
        """An error in the place of a reply that is not read."""
        metadata = message_from_proto(self._coming[message_id][0]).metadata
        self._confirm(message_id)
        return [make_message(metadata, error=Error(OUR_ERROR, reason))]

    def _confirm(self, message_id: str) -> None:
        """Let the SuperLink forget a reply."""
        message, _ = self._coming.pop(message_id)
        request = ConfirmMessageReceivedRequest(
            node=self._grid.node,
            run_id=self._grid.run.run_id,
            message_object_id=message.metadata.message_id,
        )
        self._grid._runtime_client.ConfirmMessageReceived(request)


def inflate(message_id: str, contents: dict[str, bytes], limit: Limit) -> Message:
    """The message that objects make up; raises Malformed on what makes up none."""
    try:
        if inflated_bytes(contents) > limit.bytes:
            raise TooLarge
        message = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message):
            raise Malformed
        message.metadata.__dict__["_message_id"] = message_id
    except (TooLarge, Malformed):
        raise
    except Exception:  # whatever Flower's parsers make of hostile bytes ends one reply only
        raise Malformed from None
    return message


def inflated_bytes(contents: Mapping[str, bytes]) -> int:
    """Bytes that arrays come to when they are put together: each may name a chunk many times.

    Raises ValueError, LookupError or TypeError on what are no objects of Flower's.
    """
    total = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind != "Array":
            continue
        parts = json.loads(content[content.index(HEAD_BODY_DIVIDER) + 1 :])["arraychunk_ids"]
        total += sum(len(contents[children[part]]) for part in parts)
    return total


class _NotWhole(Exception):
    """A part of a reply has not been uploaded yet."""


class Malformed(Exception):
    """Objects that are no message."""


class TooLarge(Exception):
    """A reply is larger than an honest one can be."""


@dataclass
class _Budget:
    """Bytes that may still be read; threads share it."""

    most: int
    spent: int = 0

    def spend(self, size: int) -> None:
        self.spent += size
        if self.spent > self.most:
            raise TooLarge


def _once(budget: _Budget, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`pull`, which does not try again what is not there yet, nor read beyond the budget."""

    def try_once(object_id: str) -> bytes:
        try:
            content = pull(object_id)
        except ObjectUnavailableError:
            raise _NotWhole from None
        budget.spend(len(content))
        return content

    return try_once


def _bound_bodies(client: RuntimeHttpClient) -> None:
    """Have the client look at an object's size before it reads its body."""
    http = getattr(client, "_client", None)
    if isinstance(http, httpx.Client) and _refuse_body not in http.event_hooks["response"]:
        hooks = http.event_hooks
        http.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_body]}


def _refuse_body(response: httpx.Response) -> None:
    """Raise TooLarge on an object that is larger than any of an honest reply."""
    told = response.headers.get("content-length", "0")
    if response.request.url.path.endswith(PULL) and int(told) > MOST_OF_ONE:
        raise TooLarge

"""Replies that nodes are still uploading.

Beside engine.py and superlink.py the only module of the aggregator that imports flwr. Flower's own
pull waits for a reply whose upload is not complete: as long as a slow node takes, and three minutes
for one that was killed. Nobody else would be heard meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid


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

    def pull(self, message_id: str) -> list[Message]:
        """The reply to a message, or an error in its place; nothing while it is on its way."""
        if not isinstance(self._grid, HttpGrid):  # in simulation nothing is ever on its way
            return list(self._grid.pull_messages([message_id]))
        client, run_id = self._grid._runtime_client, self._grid.run.run_id
        if message_id not in self._coming:
            return []
        message, objects = self._coming[message_id]
        pull = _once(make_pull_object_fn_protobuf(client.PullObject, self._grid.node, run_id))
        try:
            pull(objects[-1])  # the last that a node uploads: nothing is fetched in vain
            contents = pull_objects(objects, pull)
        except _NotWhole:
            return []
        except ObjectPullError:
            del self._coming[message_id]
            error = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the upload was never completed")
            return [make_message(message_from_proto(message).metadata, error=error)]
        del self._coming[message_id]
        own_id = message.metadata.message_id
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=run_id, message_object_id=own_id
            )
        )
        inflated = inflate_object_from_contents(own_id, contents)
        inflated.metadata.__dict__["_message_id"] = own_id
        return [inflated]


class _NotWhole(Exception):
    """A part of a reply has not been uploaded yet."""


def _once(pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`pull`, which does not try again what is not there yet."""

    def try_once(object_id: str) -> bytes:
        try:
            return pull(object_id)
        except ObjectUnavailableError:
            raise _NotWhole from None

    return try_once

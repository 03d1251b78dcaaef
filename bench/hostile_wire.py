"""What stands between a hostile node and an aggregator in `hostile_corpus`: Flower's object wire.

The aggregator's side is the real one: its courier, its uploads, Flower's HTTP client and parsers.
The SuperLink is a small server that hands over whatever objects a case has laid into it, checked
for nothing; a body may be gigabytes that exist only while they are read.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

ZEROS = bytes(2**20)


@dataclass
class Upload:
    """A reply as it lies in the SuperLink; `huge` are sizes of bodies that are made up."""

    envelope: Any  # the message without its content, as protobuf
    tree: ObjectTree
    objects: dict[str, bytes] = field(default_factory=dict)
    huge: dict[str, int] = field(default_factory=dict)


def upload_of(message: Message) -> Upload:
    """An ordinary reply, as Flower's own client uploads it."""
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    bare = message_to_proto(remove_content_from_message(message))
    return Upload(bare, get_object_tree(message), objects)


def forge(upload: Upload, changes: Mapping[str, bytes]) -> Upload:
    """The upload with the contents of some objects replaced, and all above them to match.

    `changes` maps an object's type to its new content, head and all.
    """

    def rebuild(tree: ObjectTree) -> ObjectTree:
        children = [rebuild(child) for child in tree.children]
        content = upload.objects[tree.object_id]
        kind = content[: content.index(b" ")].decode()
        for old, new in zip(tree.children, children, strict=True):
            content = content.replace(old.object_id.encode(), new.object_id.encode())
        content = changes.get(kind, content)
        key = hashlib.sha256(content).hexdigest()
        objects[key] = content
        return ObjectTree(object_id=key, children=children)

    objects: dict[str, bytes] = {}
    tree = rebuild(upload.tree)
    upload.envelope.metadata.message_id = tree.object_id
    return Upload(upload.envelope, tree, objects)


def content_of(kind: str, children: Iterable[str], body: bytes) -> bytes:
    """An object as Flower lays it out."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def array_body(parts: list[int], dtype: str, shape: list[int], stype: str) -> bytes:
    """The body of an Array object."""
    told = {"dtype": dtype, "shape": shape, "stype": stype, "arraychunk_ids": parts}
    return json.dumps(told).encode()


class SuperLink(ThreadingHTTPServer):
    """The Runtime API on loopback, with one upload at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.uploads: dict[str, Upload] = {}  # by the id of the message they answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SuperLink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("pull-messages"):
            asked = PullAppMessagesRequest.FromString(body).message_ids
            found = [self.server.uploads[key] for key in asked if key in self.server.uploads]
            answer = PullAppMessagesResponse(
                messages_list=[upload.envelope for upload in found],
                message_object_trees=[upload.tree for upload in found],
            )
            self._say(answer.SerializeToString())
        elif self.path.endswith("pull-object"):
            self._object(PullObjectRequest.FromString(body).object_id)
        else:
            self._say(ConfirmMessageReceivedResponse().SerializeToString())

    def _object(self, key: str) -> None:
        for upload in self.server.uploads.values():
            if key in upload.huge:
                return self._stream(upload.huge[key])
            if key in upload.objects:
                answer = PullObjectResponse(
                    object_found=True,
                    object_available=True,
                    object_content=upload.objects[key],
                )
                return self._say(answer.SerializeToString())
        return self._say(PullObjectResponse().SerializeToString())

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, size: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(size))
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(size // len(ZEROS)):
                self.wfile.write(ZEROS)
        except OSError:
            return  # nobody reads on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Wire(HttpGrid):
    """Flower's grid, connected to a SuperLink of ours; what is sent is only numbered."""

    run = SimpleNamespace(run_id=3)

    def __init__(self, link: SuperLink, keys: Mapping[int, bytes]) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.node = Node()
        self._client = RuntimeHttpClient.from_server_address(link.address, True, None, [])
        self._keys = keys
        self.sent: dict[str, Message] = {}  # by id

    def get_nodes(self) -> Iterable[Any]:
        """All nodes, online."""
        return [
            SimpleNamespace(public_key=key, node_id=number, status="online", last_activated_at="1")
            for number, key in self._keys.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Number them."""
        ids = []
        for message in messages:
            key = f"{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = key
            self.sent[key] = message
            ids.append(key)
        return ids

    def answer(self, key: str, content: RecordDict) -> Message:
        """A reply to a message that was sent."""
        return Message(content, reply_to=self.sent[key])

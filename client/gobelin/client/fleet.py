"""Flower's Fleet connection: pull messages, push replies, be known as alive.

Beside link.py the only module of the node that imports flwr.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from flwr.app import Error, Message
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.retry import RetryInvoker, RetryState, exponential, wrap_stub

from gobelin.client.egress import Egress
from gobelin.client.home import NodeHome, NodeSettings, NodeStatus, Say
from gobelin.client.reach import BACKOFF_MAX_S
from gobelin.client.records import describe
from gobelin.client.route import route_to
from gobelin.client.uplink import Uplink
from gobelin.shared.errors import GobelinError, UnknownNodeError
from gobelin.shared.keys import load_private_key, public_pem

HEARTBEAT_INTERVAL_S = 15.0  # the SuperLink calls a node offline after twice this
HEARTBEAT_EVERY_S = 4.0
HEARTBEAT_TIMEOUT_S = 10.0  # a connection to be made anew included
ASK_AFTER_S = 30.0  # of silence within a request, the other side is asked whether it is there
DEAD_AFTER_S = 60.0  # without an answer to that, the connection is given up; a slow link's is late
SLOW = 1e6  # bytes a second, below which objects are sent one by one: a cut then costs one alone
CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),  # an object is at most what a chunk is: see `limits`
    ("grpc.keepalive_time_ms", int(1000 * ASK_AFTER_S)),
    ("grpc.keepalive_timeout_ms", int(1000 * DEAD_AFTER_S)),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 1000 * BACKOFF_MAX_S),
    ("grpc.use_local_subchannel_pool", 1),  # else two channels to one place are one connection
)
REFUSALS = 10  # a second apart: a starting aggregator answers before it has read its roster

PUSH = "PushMessages"


class Mail(NamedTuple):
    """A message whose content still lies with the SuperLink."""

    message: Message
    objects: list[str]  # ids


class Turnstile(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Every request of a connection passes the egress gate."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Count a request and let it go, or raise EgressError."""
        method = str(details.method).rpartition("/")[2]
        carried = ""
        if method == "PushObject":
            carried = request.object_id
        elif method == "PushMessages":
            carried = request.message_object_trees[0].object_id
        self._egress.request(method, request.ByteSize(), carried)
        return continuation(details, request)


class FleetConnection:
    """An authenticated session with the SuperLink's Fleet API; a context manager."""

    def __init__(self, home: NodeHome, say: Say) -> None:
        settings = home.settings()
        key = load_private_key(home.key_file)
        self._home = home
        self._say = say
        self._egress = Egress(home)
        self._public_key = public_pem(key.public_key())
        self._uplink = Uplink(home.uplink_file)
        interceptors = (
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(key, key.public_key()),
            Turnstile(self._egress),
        )
        self._channel = _channel(home, settings, *interceptors)
        # Heartbeats have a connection of their own: behind an upload on a slow one they would be
        # late, and a node that is offline for a moment is offered its round, base and all, again.
        self._heart_channel = _channel(home, settings, *interceptors)
        self._heart_stub = FleetStub(self._heart_channel)
        self._plain = FleetStub(self._channel)
        self._stub = FleetStub(self._channel)
        wrap_stub(self._stub, self._retry(settings.aggregator))
        self._node = Node(node_id=0)
        self._doubtful = False  # a message or a reply may have been lost on the way
        self._again: set[str] = set()  # objects, and PUSH, that were sent again after lost contact
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _retry(self, address: str) -> RetryInvoker:
        """Retry for as long as the aggregator is unreachable, and say so."""
        return RetryInvoker(
            wait_gen_factory=lambda: exponential(max_delay=BACKOFF_MAX_S),
            recoverable_exceptions=grpc.RpcError,
            max_tries=None,
            max_time=None,
            on_backoff=lambda state: self._lost_contact(address, state),
            should_giveup=lambda error: not _is_unavailable(error),
        )

    def _lost_contact(self, address: str, state: RetryState) -> None:
        """A request is asked again, whose answer may have been lost.

        Of those that are, all but these two have the same effect as once.
        """
        match state.args[0]:
            case PullMessagesRequest():
                self._doubtful = True  # it may have been the one answer with a message
            case PushMessagesRequest():
                self._again.add(PUSH)
            case PushObjectRequest(object_id=object_id):
                self._again.add(object_id)
        note = f"no answer from {address}, trying again in {state.actual_wait or 0:.0f} s"
        self._say(NodeStatus("waiting", note=note))

    def __enter__(self) -> FleetConnection:
        try:
            self._begin()
        except GobelinError:
            self._channel.close()
            self._heart_channel.close()
            raise
        self._heart.start()
        return self

    def _begin(self) -> None:
        """Begin a session; raises UnknownNodeError when this node's key stays unknown.

        A killed node is still online for the SuperLink until heartbeats are missed, and so is one
        that begins anew: its last session is ended first, for the key to be activated at once.
        """
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
        )
        for refusals in itertools.count(1):
            with contextlib.suppress(grpc.RpcError):
                if last := self._home.pinned("flower_node_id"):
                    self._plain.DeactivateNode(DeactivateNodeRequest(node_id=int(last)), timeout=10)
            try:
                response = self._stub.ActivateNode(request)
                break
            except grpc.RpcError:
                if refusals >= REFUSALS:
                    raise UnknownNodeError(
                        "the aggregator does not know this node's key",
                        f"send {self._home.public_key_file} to its operator, who runs "
                        "`gobelin aggregator admit`; then run this again",
                    ) from None
                self._say(NodeStatus("waiting", note="not known to the aggregator yet"))
                time.sleep(1.0)
        self._node = Node(node_id=response.node_id)
        self._home.remember("flower_node_id", str(response.node_id))
        self._doubtful = False

    def come_back(self) -> None:
        """Begin the session anew at the next look, for the aggregator to ask again."""
        self._doubtful = True

    def settle(self) -> None:
        """Begin the session anew where a message or a reply may have been lost.

        A SuperLink that is killed forgets what it was just about to hand over, in either
        direction. The aggregator asks a node again that has just come.
        """
        self._egress.note_session_now_and_then()
        if self._doubtful:
            self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # No DeactivateNode: the SuperLink drops a reply that is not pulled yet when its node goes
        # offline, so the session is left to lapse and ended by the next start.
        self._closing.set()
        self._channel.close()
        self._heart_channel.close()
        self._egress.note_session()

    @property
    def node_id(self) -> int:
        """Flower's id of this node."""
        return int(self._node.node_id)

    def pull(self) -> Mail | None:
        """The oldest message that waits, without its content, or None when there is none.

        A SuperLink that is killed may break a request off with any code: only its word that the
        key is unknown ends the session, anything else is asked again.
        """
        try:
            response = self._stub.PullMessages(PullMessagesRequest(node=self._node))
        except grpc.RpcError as error:
            if _code(error) is not grpc.StatusCode.UNAUTHENTICATED:
                self._doubtful = True
                self._say(NodeStatus("waiting", note="a request broke off; asking again"))
                return None
            raise UnknownNodeError(
                "the aggregator no longer accepts this node's key",
                "ask its operator whether the node was removed from the roster",
            ) from None
        if not response.messages_list:
            return None
        message = message_from_proto(response.messages_list[0])
        tree = response.message_object_trees[0]
        return Mail(message, [node.object_id for node in iterate_object_tree(tree)])

    def fetch(self, mail: Mail) -> Message | None:
        """A message with its content, or None when its run has ended meanwhile.

        Then the next run offers the round again.
        """
        run_id, message_id = mail.message.metadata.run_id, mail.message.metadata.message_id
        pull = make_pull_object_fn_protobuf(self._stub.PullObject, self._node, run_id)
        try:
            contents = pull_objects(mail.objects, pull, initial_backoff=0.05, backoff_cap=0.4)
            self._confirm(mail)
        except (grpc.RpcError, ObjectPullError) as error:
            self._doubtful |= not _run_is_over(error)
            return None
        inflated = inflate_object_from_contents(message_id, contents)
        inflated.metadata.__dict__["_message_id"] = message_id
        return inflated

    def decline(self, mail: Mail, error: Error) -> None:
        """Answer a message by an error, without fetching its content."""
        with contextlib.suppress(grpc.RpcError):
            self._confirm(mail)
        self.send(Message(error, reply_to=mail.message), 0.0)

    def _confirm(self, mail: Mail) -> None:
        metadata = mail.message.metadata
        make_confirm_message_received_fn_protobuf(
            self._stub.ConfirmMessageReceived, self._node, metadata.run_id
        )(metadata.message_id)

    def send(
        self, reply: Message, seconds: float, settle: Callable[[], None] = lambda: None
    ) -> tuple[int, float] | None:
        """Push a reply, which took `seconds` to make; None when its run has ended meanwhile.

        Raises EgressError on a reply that is none of those that may leave. `settle` returns when
        the reply may be known: the last object, without which it is none, goes after that. Returns
        the bytes of what the SuperLink did not have yet and the seconds they took.
        """
        departure = describe(reply)
        self._egress.wait(departure, lambda note: self._say(NodeStatus("waiting", note=note)))
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
        with self._egress.departing(departure, frozenset(objects)):
            return self._push(reply, tree, objects, seconds, settle)

    def _push(
        self,
        reply: Message,
        tree: ObjectTree,
        objects: dict[str, InflatableObject],
        seconds: float,
        settle: Callable[[], None],
    ) -> tuple[int, float] | None:
        """Push a reply that was cleared.

        What the SuperLink has of it from before is not sent again. An object whose answer was lost
        is not taken a second time: that it is refused says that it is there, unless all are.
        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        last = {reply.metadata.message_id}
        sizes: list[int] = []
        rate = self._uplink.bytes_per_second()
        at_once = 1 if rate is not None and rate < SLOW else FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES
        self._again.clear()
        started = time.monotonic()
        settling = 0.0
        try:
            response = self._stub.PushMessages(request)
            if PUSH in self._again and not response.objects_to_push:
                self._doubtful = True  # nothing is missing, or it knows of no such reply any more
            push = make_push_object_fn_protobuf(
                self._stub.PushObject, self._node, reply.metadata.run_id, response.session_id
            )

            def push_and_weigh(object_id: str, content: bytes) -> None:
                try:
                    push(object_id, content)
                except ObjectPushError:
                    if object_id not in self._again or object_id in last:
                        raise
                sizes.append(len(content))

            wanted = set(response.objects_to_push)
            push_objects(
                objects,
                push_and_weigh,
                object_ids_to_push=wanted - last,
                max_concurrent_pushes=at_once,
            )
            waited = time.monotonic()
            settle()
            settling = time.monotonic() - waited
            push_objects(objects, push_and_weigh, object_ids_to_push=wanted & last)
        except (grpc.RpcError, ObjectPushError) as error:
            settle()
            self._doubtful |= not _run_is_over(error)
            return None
        return sum(sizes), time.monotonic() - started - settling

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_EVERY_S):
            request = SendNodeHeartbeatRequest(  # of the session as it is now
                node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S
            )
            with contextlib.suppress(grpc.RpcError):
                self._heart_stub.SendNodeHeartbeat(
                    request, timeout=HEARTBEAT_TIMEOUT_S, wait_for_ready=True
                )


def _channel(home: NodeHome, settings: NodeSettings, *interceptors: Any) -> grpc.Channel:
    """A connection to the Fleet API, by the pinned CA and the route of the settings."""
    route = route_to(settings.aggregator, settings.network.proxy)
    credentials = grpc.ssl_channel_credentials(home.ca_file.read_bytes())
    options = [*CHANNEL, *route.channel_options()]
    channel = grpc.secure_channel(settings.aggregator, credentials, options)
    return grpc.intercept_channel(channel, *interceptors)


def _is_unavailable(error: BaseException) -> bool:
    return _code(error) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _run_is_over(error: BaseException) -> bool:
    """Whether a message's run has ended meanwhile: the next run offers the round by itself."""
    return _code(error) is grpc.StatusCode.PERMISSION_DENIED


def _code(error: BaseException) -> grpc.StatusCode | None:
    """The status of a failed request; None where it is no answer of the SuperLink's."""
    return error.code() if isinstance(error, grpc.Call) else None

"""Flower, on the node's side: our own loop over its gRPC Fleet connection, and the ClientApp.

The only module here that imports flwr. The node runs installed code only: it pulls messages,
calls the ClientApp below in this process and pushes the reply; the run's bundle is never fetched.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import contextlib
import functools
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.grpc import create_channel
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
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
from flwr.supercore.retry import RetryInvoker, exponential, wrap_stub

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.reach import BACKOFF_MAX_S, wait_reachable
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import (
    BASE,
    BYTES,
    DELTA,
    ENCODING,
    ENCODING_MOMENTS,
    HEADER,
    METRIC_DISTORTION,
    METRIC_SENT_BYTES,
    MOMENTS,
    PAYLOAD,
    Contribution,
    Farewell,
    MalformedMessageError,
    RoundPlan,
    encoding_of,
)
from gobelin.shared.codec import describe_codec
from gobelin.shared.errors import (
    ContributionError,
    GobelinError,
    UnknownNodeError,
)
from gobelin.shared.files import write_json
from gobelin.shared.keys import load_private_key, public_pem
from gobelin.shared.vector import DTYPE

POLL_S = 0.5
HEARTBEAT_INTERVAL_S = 10.0  # the SuperLink calls a node offline after twice this
HEARTBEAT_EVERY_S = 4.0
UNKNOWN_GRACE_S = 10.0  # a starting aggregator answers before it has read its roster
PEAK_PER_MB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
HOME_KEY = "home"
OUR_ERROR = 100  # Flower error code of replies that carry one of our codes

Say = Callable[[NodeStatus], None]

# ---------------------------------------------------------------- the ClientApp

app = ClientApp()
_watchers: dict[str, Say] = {}  # home → who wants to see its contributor's progress
_failures: dict[str, GobelinError] = {}  # home → why its last contribution failed; stays here


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer a round plan with a contribution, or with an error code and nothing else."""
    home = str(context.node_config[HOME_KEY])
    try:
        spooled = _contributor(home).contribute(*_read_plan(message.content))
    except GobelinError as error:
        _failures[home] = error
        return Message(Error(OUR_ERROR, f"gobelin:{error.code}"), reply_to=message)
    return Message(contribution_record(spooled), reply_to=message)


@app.query()
def hear_farewell(message: Message, context: Context) -> Message:
    """Acknowledge that the federation has finished."""
    return Message(RecordDict(), reply_to=message)


@functools.cache
def _contributor(home: str) -> Contributor:
    """The one contributor of a home in this process, kept warm between rounds."""
    return Contributor(NodeHome(Path(home)), lambda status: _watchers.get(home, _ignore)(status))


def _ignore(status: NodeStatus) -> None:
    """Nobody watches."""


def _read_plan(content: RecordDict) -> tuple[RoundPlan, dict[str, bytes], bytes]:
    """Plan, base segments and moments of a message; ContributionError when it is malformed."""
    try:
        plan = RoundPlan.from_bytes(content[HEADER][PAYLOAD])
        arrays: Mapping[str, Array] = content[BASE]
        if any(a.stype != ENCODING or a.dtype != DTYPE for a in arrays.values()):
            raise ContributionError("the base has an encoding this node does not know")
        moments = content[MOMENTS][MOMENTS].data if MOMENTS in content else b""
        return plan, {name: array.data for name, array in arrays.items()}, moments
    except (MalformedMessageError, KeyError, TypeError, AttributeError):
        raise ContributionError("the aggregator's message is malformed", "update gobelin") from None


def contribution_record(spooled: Spooled) -> RecordDict:
    """A contribution as Flower carries it: header, an array a segment, and moments if any."""
    payload = spooled.payload
    lengths = {name: end - start for name, (start, end) in payload.schema.segments.items()}
    arrays = ArrayRecord(
        {
            name: Array(DTYPE, (lengths[name],), encoding_of(payload.codec), data)
            for name, data in payload.segments.items()
        }
    )
    header = ConfigRecord({PAYLOAD: spooled.contribution.to_bytes()})
    record = RecordDict({HEADER: header, DELTA: arrays})
    if data := spooled.moments:
        record[MOMENTS] = ArrayRecord({MOMENTS: Array(BYTES, (len(data),), ENCODING_MOMENTS, data)})
    return record


# ---------------------------------------------------------------- the Fleet connection


class FleetConnection:
    """An authenticated session with the SuperLink's Fleet API; a context manager."""

    def __init__(self, home: NodeHome, say: Say) -> None:
        settings = home.settings()
        key = load_private_key(home.key_file)
        self._home = home
        self._say = say
        self._public_key = public_pem(key.public_key())
        self._channel = create_channel(
            settings.aggregator,
            insecure=False,
            root_certificates=home.ca_file.read_bytes(),
            interceptors=[
                RuntimeVersionClientInterceptor(component_name="SuperNode"),
                NodeAuthClientInterceptor(key, key.public_key()),
            ],
        )
        self._plain = FleetStub(self._channel)
        self._stub = FleetStub(self._channel)
        wrap_stub(self._stub, self._retry(settings.aggregator))
        self._node = Node(node_id=0)
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _retry(self, address: str) -> RetryInvoker:
        """Retry for as long as the aggregator is unreachable, and say so."""
        return RetryInvoker(
            wait_gen_factory=lambda: exponential(max_delay=BACKOFF_MAX_S),
            recoverable_exceptions=grpc.RpcError,
            max_tries=None,
            max_time=None,
            on_backoff=lambda state: self._say(
                NodeStatus(
                    "waiting",
                    note=f"no answer from {address}, trying again in {state.actual_wait:.0f} s",
                )
            ),
            should_giveup=lambda error: not _is_unavailable(error),
        )

    def __enter__(self) -> FleetConnection:
        with contextlib.suppress(grpc.RpcError):
            # A killed node is still online for the SuperLink until heartbeats are missed:
            # end that session, so that the key can be activated again at once.
            if old := self._home.pinned("flower_node_id"):
                self._plain.DeactivateNode(DeactivateNodeRequest(node_id=int(old)), timeout=10)
        try:
            response = self._activate()
        except GobelinError:
            self._channel.close()
            raise
        self._node = Node(node_id=response.node_id)
        self._home.pin("flower_node_id", str(response.node_id))
        self._heart.start()
        return self

    def _activate(self) -> Any:
        """Activate this node's key; raises UnknownNodeError when it stays unknown."""
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
        )
        give_up = time.monotonic() + UNKNOWN_GRACE_S
        while True:
            try:
                return self._stub.ActivateNode(request)
            except grpc.RpcError:
                if time.monotonic() >= give_up:
                    raise UnknownNodeError(
                        "the aggregator does not know this node's key",
                        f"send {self._home.public_key_file} to its operator, who runs "
                        "`gobelin aggregator admit`; then run this again",
                    ) from None
                self._say(NodeStatus("waiting", note="not known to the aggregator yet"))
                time.sleep(1.0)

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

    @property
    def node_id(self) -> int:
        """Flower's id of this node."""
        return int(self._node.node_id)

    def receive(self) -> Message | None:
        """The next message with its content, or None when there is none."""
        try:
            response = self._stub.PullMessages(PullMessagesRequest(node=self._node))
        except grpc.RpcError:
            raise UnknownNodeError(
                "the aggregator no longer accepts this node's key",
                "ask its operator whether the node was removed from the roster",
            ) from None
        if not response.messages_list:
            return None
        message = message_from_proto(response.messages_list[0])
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        tree = response.message_object_trees[0]
        try:
            contents = pull_objects(
                [node.object_id for node in iterate_object_tree(tree)],
                make_pull_object_fn_protobuf(self._stub.PullObject, self._node, run_id),
                initial_backoff=0.1,
            )
            make_confirm_message_received_fn_protobuf(
                self._stub.ConfirmMessageReceived, self._node, run_id
            )(message_id)
        except (grpc.RpcError, ObjectPullError):
            return None  # its run has ended meanwhile; the next run offers the round again
        inflated = inflate_object_from_contents(message_id, contents)
        inflated.metadata.__dict__["_message_id"] = message_id
        return inflated

    def send(self, reply: Message, seconds: float) -> bool:
        """Push a reply; False when the run it answers has ended meanwhile."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[seconds],
        )
        try:
            response = self._stub.PushMessages(request)
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(
                    self._stub.PushObject, self._node, run_id, response.session_id
                ),
                object_ids_to_push=set(response.objects_to_push),
            )
        except (grpc.RpcError, ObjectPushError):
            return False
        return True

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
        while not self._closing.wait(HEARTBEAT_EVERY_S):
            with contextlib.suppress(grpc.RpcError):
                self._plain.SendNodeHeartbeat(request, timeout=HEARTBEAT_EVERY_S)


def serve(home: NodeHome, say: Say, give_up_s: float = math.inf) -> None:
    """Take part in rounds until the last: pull a plan, train, push the contribution.

    Waits with backoff while the aggregator is unreachable, at the start for at most `give_up_s`
    (then UnreachableError). Raises WrongCAError, UnknownNodeError, and what keeps this node from
    training, such as bad data; the aggregator learns no more of that than the error's code.
    """
    key = str(home.folder)
    say = _watchers[key] = _recording(home, say)
    wait_reachable(home, say, give_up_s)
    with FleetConnection(home, say) as link:
        say(NodeStatus("idle", note="connected; waiting for a round"))
        for message in _messages(link):
            reply, sent = _answer(link, message, key, say)
            if message.metadata.message_type == MessageType.QUERY:
                say(_finished(message))
                return
            failure = _failures.pop(key, None)
            if failure is not None and not isinstance(failure, ContributionError):
                raise failure  # ours to mend, not the aggregator's
            say(_outcome(reply, sent, failure))


def _answer(link: FleetConnection, message: Message, home: str, say: Say) -> tuple[Message, bool]:
    """Let the ClientApp answer a message and push the reply; False when nobody waits for it."""
    context = Context(message.metadata.run_id, link.node_id, {HOME_KEY: home}, RecordDict(), {})
    started = time.monotonic()
    reply = app(message, context)
    say(NodeStatus("sending"))
    return reply, link.send(reply, time.monotonic() - started)


def _outcome(reply: Message, sent: bool, failure: GobelinError | None) -> NodeStatus:
    if failure is not None:
        return NodeStatus("idle", note=f"could not contribute: {failure}")
    if not sent:
        note = "the aggregator restarted; the contribution stays in the spool"
        return NodeStatus("idle", note=note)
    made = Contribution.from_bytes(reply.content[HEADER][PAYLOAD])  # our own
    sent_bytes, distortion = made.metrics[METRIC_SENT_BYTES], made.metrics[METRIC_DISTORTION]
    moments = len(reply.content[MOMENTS][MOMENTS].data) if made.moments_digest else 0
    beside = f"; moments, {moments:,} bytes" if moments else ""
    return NodeStatus(
        "idle",
        round=made.round,
        codec=made.codec,
        sent_bytes=int(sent_bytes),
        distortion=distortion,
        moments_bytes=moments,
        note=f"contribution sent ({describe_codec(made.codec, sent_bytes, distortion)}{beside}); "
        "waiting for the next round",
    )


def _messages(link: FleetConnection) -> Iterator[Message]:
    while True:
        message = link.receive()
        if message is None:
            time.sleep(POLL_S)
        else:
            yield message


def _finished(message: Message) -> NodeStatus:
    try:
        farewell = Farewell.from_bytes(message.content[HEADER][PAYLOAD])
    except (MalformedMessageError, KeyError, TypeError):
        return NodeStatus("finished", note="the aggregator says the federation has finished")
    consensus = farewell.vector_digest[:12]
    return NodeStatus("finished", note=f"{farewell.rounds} rounds; the consensus is {consensus}")


def _recording(home: NodeHome, say: Say) -> Say:
    """`say`, with the status kept in a file as well (at most once a second while training)."""
    written = 0.0

    def record(status: NodeStatus) -> None:
        nonlocal written
        now = time.monotonic()
        if status.state != "training" or now - written >= 1.0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PEAK_PER_MB
            write_json(home.status_file, replace(status, peak_mb=peak).facts())
            written = now
        say(status)

    return record


def _is_unavailable(error: BaseException) -> bool:
    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return isinstance(error, grpc.Call) and error.code() in codes

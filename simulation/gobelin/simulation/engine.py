"""Flower's simulation engine with our own apps: the aggregator here, the nodes in Ray's actors.

The only module here that imports flwr or ray. ServerApp and ClientApp are those of a real
federation. Nodes are registered with the keys of their homes, so the roster knows them; a message
reaches whichever actor is free, and what a node remembers between rounds lies in its spool.
"""

from __future__ import annotations

import os

# Before ray is imported: it reads them once.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux as there: loopback only
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # a node's compute.device decides
os.environ["RAY_DEDUP_LOGS"] = "0"

import json
import signal
import threading
from collections import defaultdict, deque
from pathlib import Path
from types import FrameType

import ray
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_INTERVAL_INF,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
)
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce import start_vce
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid
from ray._private.node import Node

from gobelin.client import link
from gobelin.client.home import NodeHome
from gobelin.server import engine as server_engine
from gobelin.shared.locks import sole_owner
from gobelin.simulation.study import StudyHome

RUN_ID = 1
RETRIES = 2  # of a message whose actor died under it
STORE_LEAST = 80 * 2**20  # bytes; Ray refuses less than 75 MiB
VECTORS_IN_FLIGHT = 4  # an actor's: base and reply, and both once more while they change hands


def run(home: StudyHome, scratch: Path) -> None:
    """Run the rounds that are not sealed yet; Ray keeps its files in `scratch`.

    Raises what the ServerApp raised.
    """
    study, nodes = home.study(), home.nodes()
    torch.set_num_threads(study.threads)  # the other cores are the nodes'
    links, state = open_mailboxes()
    this_run = _open_run(state)
    partitions = {_register(state, node): index for index, node in enumerate(nodes)}
    start_ray(scratch, study.actors * study.threads, study.actors * home.vector_bytes())
    stop = threading.Event()
    failures: list[Exception] = []

    def serve() -> None:
        try:
            server_engine.app(_grid(links, this_run), _context(this_run))
        except Exception as error:
            failures.append(error)
        finally:
            stop.set()

    threading.Thread(target=serve, name="server-app", daemon=True).start()
    start_vce(
        backend_name="ray",
        backend_config_json_stream=json.dumps({"client_resources": _of_an_actor(study.threads)}),
        app_dir="",
        is_app=False,
        f_stop=stop,
        run=this_run,
        metrics=VceMetrics(),
        client_app=SimulatedNodes([str(node.folder) for node in nodes]),
        state_factory=links,
        existing_nodes_mapping=partitions,
    )
    if failures:
        raise failures[0]


class Mailboxes(InMemoryLinkState):
    """Flower's link state, with a queue of messages for each node, which answers in order.

    Flower's own goes through all messages for every node, ten times a second: with 200 nodes that
    keeps a core busy. And it gives two actors two messages for one node at once.
    """

    def __init__(self, manager: NoOpFederationManager, objects: ObjectStore) -> None:
        super().__init__(manager, objects)
        self._waiting: defaultdict[int, deque[Message]] = defaultdict(deque)
        self._busy: set[int] = set()  # nodes that have not answered yet

    def store_message_ins(self, message: Message) -> str | None:
        """Store a message for a node."""
        message_id: str | None = super().store_message_ins(message)
        if message_id is not None:
            self._waiting[message.metadata.dst_node_id].append(message)
        return message_id

    def get_message_ins(
        self, node_id: int, limit: int | None, *, run_id: int | None = None
    ) -> list[Message]:
        """The next message for a node once it has answered the last; never more than one."""
        waiting = self._waiting[node_id]
        if node_id in self._busy or not waiting:
            return []
        self._busy.add(node_id)
        message = waiting.popleft()
        message.metadata.delivered_at = now().isoformat()
        return [message]

    def store_message_res(self, message: Message) -> str | None:
        """Store a node's reply, after which it is given its next message."""
        self._busy.discard(message.metadata.src_node_id)
        message_id: str | None = super().store_message_res(message)
        return message_id


def open_mailboxes() -> tuple[LinkStateFactory, Mailboxes]:
    """Mailboxes in memory, and what hands them to Flower's server and engine."""
    state = Mailboxes(NoOpFederationManager(), ObjectStoreFactory().store())
    links = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    links.state_instance = state
    return links, state


class SimulatedNodes(ClientApp):
    """The node's ClientApp, called with the home of the node that a message is for."""

    def __init__(self, homes: list[str]) -> None:
        super().__init__()
        self._homes = homes  # by partition id

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the node whose partition this is; one actor at a time has its home."""
        home = self._homes[int(context.node_config[PARTITION_ID_KEY])]
        context.node_config[link.HOME_KEY] = home
        with sole_owner(Path(home), wait_s=message.metadata.ttl):
            reply = link.app(message, context)
        failure = link.take_failure(home)
        if failure is not None:
            print(f"{Path(home).name}: {failure}", flush=True)  # the aggregator learns the code
        return reply


def start_ray(scratch: Path, cpus: int, bytes_at_once: int) -> None:
    """Start a Ray of our own for `cpus` CPUs: on loopback, silent, with a bounded object store."""
    # Without a dashboard, too, Ray starts its server, and that asks cloud services where it is.
    Node.start_api_server = _no_api_server
    ray.init(
        address="local",  # never a cluster that happens to be there
        num_cpus=cpus,
        object_store_memory=max(STORE_LEAST, VECTORS_IN_FLIGHT * bytes_at_once),
        include_dashboard=False,
        logging_level="WARNING",
        _temp_dir=str(scratch / "ray"),  # which Ray opens to everyone
    )
    signal.signal(signal.SIGTERM, _end)


def _end(signum: int, frame: FrameType | None) -> None:
    """End now, and Ray's processes with us; they linger when only we are killed."""
    ray.shutdown()
    os._exit(0)


def _no_api_server(node: Node, **_: object) -> None:
    node._webui_url = None


def _of_an_actor(threads: int) -> dict[str, int]:
    """What Ray sets aside for an actor, and that it replaces one that died and asks again."""
    return {"num_cpus": threads, "max_restarts": -1, "max_task_retries": RETRIES}


def _open_run(state: Mailboxes) -> Run:
    """A run in the link state, with this process as its ServerApp's."""
    run = Run.create_empty(RUN_ID)
    run.primary_task_id, run.federation_id = RUN_ID, NOOP_FEDERATION_ID
    state.run_ids[RUN_ID] = RunRecord(run=run)
    state.task_store[RUN_ID] = Task(task_id=RUN_ID, run_id=RUN_ID)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = (
        RUN_ID,
        RUN_ID,
        SUPERLINK_NODE_ID,
    )
    return run


def _register(state: Mailboxes, node: NodeHome) -> int:
    """Register a node by its key, online for ever; returns Flower's id of it."""
    node_id: int = state.create_node(
        NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, node.public_key_file.read_bytes(), HEARTBEAT_INTERVAL_INF
    )
    state.activate_node(node_id, HEARTBEAT_INTERVAL_INF)
    return node_id


def _grid(links: LinkStateFactory, run: Run) -> InMemoryGrid:
    grid = InMemoryGrid(links)
    grid.set_run(run)
    return grid


def _context(run: Run) -> Context:
    return Context(run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), {})

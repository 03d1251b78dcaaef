"""Flower, on the aggregator's side: the ServerApp, the courier over its Grid, and the SuperLink.

Beside uploads.py and superlink.py the only module here that imports flwr. What `gobelin aggregator
up` starts: a SuperLink whose Fleet gRPC port is published and whose Control and Runtime APIs stay
on loopback, a superexec of its own (so that a run outlives a killed SuperLink), and one run whose
bundle names this module.
"""

from __future__ import annotations

import os

from gobelin.server.loopback import sparing_loopback

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.update(sparing_loopback(os.environ))  # for this process and all it starts

import hashlib
import itertools
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flwr.app import (
    DEFAULT_TTL,
    Context,
    Message,
    MessageType,
)
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab

from gobelin.protocols.messages import (
    NOTICE,
    RECALL,
    Notice,
    RoundPlan,
)
from gobelin.protocols.sealing import SEALED, SealedCall
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.home import AggregatorHome
from gobelin.server.limits import Limit
from gobelin.server.records import Records, enclosed, message_record, reply_of
from gobelin.server.roster import Roster
from gobelin.server.rounds import RoundEngine
from gobelin.server.tls import TLS13
from gobelin.server.uploads import Uploads
from gobelin.shared.errors import EngineError, GobelinError, RoundError
from gobelin.shared.files import sole_owner, sweep, sweep_beside
from gobelin.shared.keys import fingerprint
from gobelin.shared.logs import FLOWER, adopt, child_stream, logged
from gobelin.shared.vector import SEGMENT

Asked = tuple[str, str]  # a node's fingerprint, the digest of what it was sent
ALLOCATION = {  # of vectors and their segments, in the engine's processes
    # glibc: vectors that are freed go back to the system; what a segment needs is used again, as
    # fresh pages for it cost more than its sums.
    "MALLOC_MMAP_THRESHOLD_": str(SEGMENT * 4 * 2 + 1),
    "MALLOC_TRIM_THRESHOLD_": str(SEGMENT * 4 * 8),
    "THP_MEM_ALLOC_ENABLE": "1",  # torch: huge pages, as a page's fault costs more than its sums
}
HOME_VARIABLE = "GOBELIN_AGGREGATOR_HOME"  # how the ServerApp learns its home (never via the run)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: run the rounds that are not sealed yet."""
    _end_with_parent()
    home = AggregatorHome(Path(os.environ[HOME_VARIABLE]))
    front = home.front()
    logs = logged(front.logs, "json", child_stream(), role="serverapp", federation=front.name)
    adopt(FLOWER)
    # The ServerApp of a killed supervisor may linger.
    with logs, sole_owner(home.rounds, wait_s=60):
        for folder in (home.rounds, home.releases, home.journal, home.ledger, home.archive):
            sweep(folder)
        sweep_beside(home.issued_file)  # alone of the home's own files it is the ServerApp's
        try:
            rounds = home.settings().rounds
            lifetime_s = max(DEFAULT_TTL, rounds.deadline_s * (1 + rounds.max_staleness))
            RoundEngine(home, GridCourier(grid, lifetime_s)).run()
        except GobelinError as error:
            home.record({"event": "failed", **error.facts()})
            raise RoundError(error.code) from None  # no path or value leaves in Flower's record


def _end_with_parent() -> None:
    """End this process when the superexec that started it is gone.

    Else the ServerApp of a killed supervisor would hold the rounds' lock, calling for ever for a
    SuperLink that is gone. Ending at any moment is safe: state on disk is the only truth.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


class GridCourier:
    """A courier over Flower's Grid: one message a node, replies pulled one at a time.

    It waits for answers to earlier plans as well, for `lifetime_s` after each was sent.
    """

    def __init__(self, grid: Grid, lifetime_s: float = DEFAULT_TTL) -> None:
        self._grid = grid
        self._lifetime_s = lifetime_s
        self._uploads = Uploads(grid)
        self._pending: dict[str, Asked] = {}  # by message id
        self._latest: dict[Asked, str] = {}  # the other way round
        self._limits: dict[str, Limit] = {}  # of the answers, by message id
        self._flower_ids: dict[str, int] = {}  # fingerprint → Flower's node id

    def nodes(self) -> list[NodeState]:
        """The nodes registered with the SuperLink."""
        states = []
        for info in self._grid.get_nodes():
            node = fingerprint(info.public_key)
            self._flower_ids[node] = info.node_id
            states.append(NodeState(node, info.status == "online", info.last_activated_at))
        return states

    def send(self, parcels: Iterable[Parcel]) -> None:
        """Push parcels; what goes to several nodes is hashed, sent and stored once for all."""
        for _, group in itertools.groupby(parcels, lambda parcel: id(parcel.enclosure)):
            alike = list(group)
            beside = enclosed(alike[0].enclosure)
            messages = [self._message(parcel, beside) for parcel in alike]
            pushed = self._grid.push_messages(messages)
            for message_id, parcel in zip(pushed, alike, strict=True):
                if message_id:  # '' when the node has just left
                    asked = (parcel.node, parcel.message.digest)
                    self._pending[message_id] = asked
                    self._latest[asked] = message_id
                    self._limits[message_id] = parcel.limit

    def _message(self, parcel: Parcel, beside: Records) -> Message:
        content = message_record(
            parcel.message, beside, parcel.receipts, parcel.envelope, parcel.ledger
        )
        kind = MessageType.QUERY
        if isinstance(parcel.message, RoundPlan):
            kind = RECALL if parcel.enclosure is None else MessageType.TRAIN
        elif isinstance(parcel.message, Notice):
            kind = NOTICE
        elif isinstance(parcel.message, SealedCall):
            kind = SEALED
        return Message(content, self._flower_ids[parcel.node], kind, ttl=self._lifetime_s)

    def replies(self) -> Iterator[Reply]:
        """Pull what has arrived, one message at a time, so that memory holds one reply."""
        self._uploads.look(self._pending)
        for message_id, asked in list(self._pending.items()):
            for message in self._uploads.pull(message_id, self._limits[message_id]):
                self._pending.pop(message_id, None)
                self._limits.pop(message_id, None)
                reply = reply_of(*asked, message)
                del message
                latest = self._latest.get(asked) == message_id
                if latest:
                    del self._latest[asked]
                if latest or not reply.lost:  # of a lost one that was sent again nothing follows
                    yield reply
                del reply


@dataclass(frozen=True)
class Ports:
    """Where the SuperLink listens: the published Fleet address and the loopback port."""

    fleet: str  # host:port
    control: int  # on 127.0.0.1


def superlink_command(home: AggregatorHome, ports: Ports) -> list[str]:
    """Command line of the SuperLink."""
    tls = home.tls
    return [
        *(sys.executable, "-P", "-m", "gobelin.server.superlink"),  # bounded, and flwr's own
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.flower / "superexec.secret")),
        *("--database", str(home.flower / "link.db")),
        *("--ssl-ca-certfile", str(tls / "ca.pem")),
        *("--ssl-certfile", str(tls / "server.pem")),
        *("--ssl-keyfile", str(tls / "server.key")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--fleet-api-address", ports.fleet),
        *("--host", "127.0.0.1", "--port", str(ports.control)),
    ]


def superexec_command(home: AggregatorHome, ports: Ports) -> list[str]:
    """Command line of the superexec, which starts the ServerApp process."""
    return [
        _tool("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{ports.control}"),
        *("--root-certificates", str(home.tls / "ca.pem")),
        *("--superexec-auth-secret-file", str(home.flower / "superexec.secret")),
        *("--parent-pid", str(os.getpid())),
    ]


def service_command(home: AggregatorHome) -> list[str]:
    """Command line of our own service."""
    return [_tool("gobelin"), "aggregator", "serve", "--home", str(home.folder)]


def page_command(home: AggregatorHome) -> list[str]:
    """Command line of the page."""
    return [_tool("gobelin"), "aggregator", "page", "--home", str(home.folder)]


def child_environment(home: AggregatorHome) -> dict[str, str]:
    """Environment of the engine's processes: no phone-home, Flower's files under our home."""
    tools = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",  # else a line a request: gigabytes in a month of polling
        "FLWR_HOME": str(home.flower.resolve()),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        HOME_VARIABLE: str(home.folder.resolve()),
        **ALLOCATION,
        **TLS13,
    }


def _tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise EngineError(f"{name} is not installed beside {sys.executable}", "pip install gobelin")
    return str(path)


class Control:
    """The SuperLink's Control API, on loopback: register nodes, start and watch the run."""

    def __init__(self, home: AggregatorHome, ports: Ports) -> None:
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{ports.control}", False, (home.tls / "ca.pem").read_bytes(), interceptors=[]
        )

    def answer(self) -> None:
        """Ask for something that lies in the SuperLink's database; raises what httpx does."""
        self._client.ListNodes(ListNodesRequest())

    def sync_roster(self, roster: Roster) -> list[str]:
        """Make the SuperLink's registered nodes those of the roster; names of the changed ones."""
        wanted = {entry.id: entry for entry in roster.contributors}
        registered = {  # the SuperLink goes on listing those that it has let go
            fingerprint(info.public_key): info.node_id
            for info in self._client.ListNodes(ListNodesRequest()).nodes_info
            if info.status != NodeStatus.UNREGISTERED
        }
        changed = []
        for node in wanted.keys() - registered.keys():
            entry = wanted[node]
            key = entry.public_key.encode()
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=entry.name))
            changed.append(entry.name)
        for node in registered.keys() - wanted.keys():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=registered[node]))
            changed.append(node[:12])
        return sorted(changed)

    def start_run(self) -> int:
        """Stop runs an earlier supervisor left behind and start a fresh one; returns its id."""
        for run_id, run in self._client.ListRuns(ListRunsRequest()).run_dict.items():
            if run.status.status != "finished":
                self._client.StopRun(StopRunRequest(run_id=run_id))
        content = pointer_bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({}))
        return int(self._client.StartRun(request).run_id)

    def run_status(self, run_id: int) -> tuple[str, str]:
        """Status and sub-status of a run, such as ("finished", "completed")."""
        runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        return status.status, status.sub_status

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def pointer_bundle() -> bytes:
    """The bundle Flower wants of a run: no code, it only names our installed apps."""
    pyproject = """
[project]
name = "gobelin-pointer"
version = "1.0.0"
description = "Names the installed Gobelin apps; carries no code."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "gobelin"

[tool.flwr.app.components]
serverapp = "gobelin.server.engine:app"
clientapp = "gobelin.client.link:app"
"""
    content: bytes = build_fab_from_files({"pyproject.toml": pyproject.encode()})[0]
    return content

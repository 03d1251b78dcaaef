"""Flower, on the aggregator's side: the ServerApp, and the courier over its Grid.

`gobelin aggregator up` starts a SuperLink whose Fleet gRPC port is published and whose Control and
Runtime APIs stay on loopback, a superexec of its own (so that a run outlives a killed SuperLink),
and one run whose bundle names this module.
"""

from __future__ import annotations

import os

from gobelin.server.loopback import sparing_loopback

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.update(sparing_loopback(os.environ))  # for this process and all it starts

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from flwr.app import (
    DEFAULT_TTL,
    Context,
    Message,
    MessageType,
)
from flwr.serverapp import Grid, ServerApp

from gobelin.protocols.messages import (
    NOTICE,
    RECALL,
    Notice,
    RoundPlan,
)
from gobelin.protocols.sealing import SEALED, SealedCall
from gobelin.server.children import HOME_VARIABLE
from gobelin.server.courier import NodeState, Parcel, Reply
from gobelin.server.home import AggregatorHome
from gobelin.server.limits import Limit
from gobelin.server.records import Records, enclosed, message_record, reply_of
from gobelin.server.rounds import RoundEngine
from gobelin.server.uploads import Uploads
from gobelin.shared.errors import GobelinError, RoundError
from gobelin.shared.files import sweep
from gobelin.shared.garbage import collected
from gobelin.shared.keys import fingerprint
from gobelin.shared.locks import sole_owner
from gobelin.shared.logs import FLOWER, adopt, child_stream, logged

Asked = tuple[str, str]  # a node's fingerprint, the digest of what it was sent
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
    with logs, collected(), sole_owner(home.rounds, wait_s=60):
        sweep(home.folder)
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

"""Nodes with homes of their own, which check what they are sent, and cosign."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from gobelin.client.home import DataSettings, NodeHome, NodeSettings, found_node
from gobelin.client.ledger import NodeLedger
from gobelin.protocols.ledger import LedgerView
from gobelin.protocols.messages import RoundPlan
from gobelin.server.courier import Parcel, Reply
from gobelin.server.home import AggregatorHome
from gobelin.server.roster import NodeEntry
from gobelin.server.verify_cli import app
from gobelin.shared.signing import SigningKey
from tests.server.world import Federation, Node, World

ROUNDS = 4
NESTEROV = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}

NOW = 1 << 60  # of an offer that no other is later than


class Witness(Node):
    """A node with a home of its own, which hears what it is sent, and cosigns."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder
        self.home: NodeHome

    def join(self, aggregator: AggregatorHome) -> None:
        """Found the node's home, and get onto the roster."""
        data = DataSettings(path=self.folder)
        settings = NodeSettings(
            member=self.name, node=self.name, aggregator="127.0.0.1:1", data=data
        )
        self.home = found_node(self.folder / self.name, settings, aggregator.tls / "ca.pem")
        pub = self.home.public_key_file.read_bytes()
        self.entry = NodeEntry.of(self.name, self.name, pub, "node.pub")
        self.id, self.key = self.entry.id, SigningKey.load(self.home.signing_key_file)

    def hear(self, parcel: Parcel, issued: int = NOW) -> None:
        """Believe a parcel, or raise."""
        plan = parcel.message if isinstance(parcel.message, RoundPlan) else None
        assert parcel.ledger is not None
        view = LedgerView.from_records(parcel.ledger.to_records())
        NodeLedger(self.home, lambda: 1.7e9).hear("fed", view, parcel.receipts, plan, issued)


class Listening(World):
    """A world whose nodes check what they are sent, and send their cosignatures back."""

    def send(self, parcels: Any) -> None:
        for parcel in parcels:
            node = self.all[parcel.node]
            if isinstance(node, Witness) and parcel.ledger is not None:
                node.hear(parcel)
            super().send([parcel])

    def replies(self) -> Iterator[Reply]:  # type: ignore[override]
        for reply in super().replies():
            node = self.all[reply.node]
            sent = NodeLedger(node.home).cosignature() if isinstance(node, Witness) else b""
            yield dataclasses.replace(reply, cosignature=sent)


def listening(folder: Path, **rounds: Any) -> Federation:
    """A federation of two nodes that check and cosign."""
    nodes = [Witness(name, folder) for name in ("north", "south")]
    fed = Federation(folder / "home", World(), (), **rounds)
    for node in nodes:
        node.join(fed.home)
        fed.admit(node)
    fed.world = Listening(*nodes)
    return fed


def ca(home: AggregatorHome) -> Path:
    return home.tls / "ca.pem"


def silent(event: str, facts: object) -> None:
    """Nobody listens."""


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def offers(fed: Federation, name: str) -> list[Parcel]:
    return [p for p in fed.world.parcels if fed.world.all[p.node].name == name]


def forked(made: Federation, folder: Path) -> Federation:
    """The same aggregator, with the same key, tells another story from round 2 on."""
    shutil.copytree(made.home.folder, folder / "home")
    fed = made.moved(folder)
    for number in range(2, ROUNDS + 1):
        shutil.rmtree(fed.home.round_folder(number))
    shutil.rmtree(fed.home.ledger)
    shutil.rmtree(fed.home.releases)
    settings = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(settings.replace("seed = 1", "seed = 2"))
    fed.world = World(*made.world.all.values())
    fed.run()
    return fed


def verify(*arguments: object) -> dict[str, Any]:
    """What `gobelin verify --json` prints; raises what it raises."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return dict(json.loads(done.stdout))

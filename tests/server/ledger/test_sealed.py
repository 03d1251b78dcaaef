"""Sealed rounds in the ledger: signed, proved and cosigned as others; replayed by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gobelin.client.home import DataSettings, NodeHome, NodeSettings, found_node
from gobelin.client.ledger import NodeLedger
from gobelin.protocols.ledger import LedgerView
from gobelin.protocols.messages import RoundPlan
from gobelin.protocols.sealing import SHARES
from gobelin.server.ledger import RoundLedger
from gobelin.server.reasons import RefusalCode
from gobelin.server.verify import verify_path
from gobelin.shared.errors import ConfigError, LedgerError
from gobelin.shared.files import PRIVATE, write_atomic
from gobelin.shared.keys import private_pem
from tests.server.ledger.witness import ca, silent, verify
from tests.server.sealed_nodes import SealedNode, sealed_federation
from tests.server.world import Federation

NAMES = ["east", "north", "south", "west"]


def home_of(node: SealedNode, fed: Federation, folder: Path) -> NodeHome:
    """A node's home with the keys that it has on the roster."""
    settings = NodeSettings(
        member=node.name, node=node.name, aggregator="127.0.0.1:1", data=DataSettings(path=folder)
    )
    home = found_node(folder / node.name, settings, ca(fed.home))
    key = ec.derive_private_key(node.number, ec.SECP384R1())
    write_atomic(home.key_file, private_pem(key), PRIVATE)
    home.signing_key_file.unlink()
    node.key.write(home.signing_key_file)
    return home


def test_sealed_rounds_are_in_the_ledger_and_no_replay_is_claimed(tmp_path: Path) -> None:
    nodes = [SealedNode(name) for name in NAMES]
    nodes[1].dies_at = (2, SHARES)
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    told = verify(fed.home.folder, "--influence", "--replay")
    assert (told["rounds"], told["contributions"]) == (2, 7)
    assert (told["replayed"], told["not_replayed"]) == ([], [1, 2])
    assert "only the sum is known" in told["said"]
    assert told["influence"]["east"]["rounds"]["2"]["influence"] == pytest.approx(1 / 3)
    assert told["influence"]["north"]["reasons"] == {RefusalCode.DROPPED_OUT: 1}
    ledger = RoundLedger(fed.home, silent)
    ledger.mend()
    record = ledger.entry(2).record
    assert record.aggregate_digest == fed.sealed(2).facts["aggregate_digest"] != ""


def test_a_node_believes_and_cosigns_sealed_rounds_and_keeps_their_receipts(
    tmp_path: Path,
) -> None:
    nodes = [SealedNode(name) for name in NAMES]
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    home = home_of(nodes[0], fed, tmp_path / "nodes")
    ledger = NodeLedger(home)
    for parcel in (p for p in fed.world.parcels if p.node == nodes[0].id):
        if parcel.ledger is not None:
            view = LedgerView.from_records(parcel.ledger.to_records())
            plan = parcel.message if isinstance(parcel.message, RoundPlan) else None
            ledger.hear("fed", view, parcel.receipts, plan, 1)
    newest = ledger.newest()
    assert newest is not None
    assert newest.head.size == 3
    for number in (1, 2):
        receipt = home.receipts / f"round-{number:05d}.json"
        told = verify_path(receipt, ca(fed.home), replayed=False, influence=False, memory=None)
        assert (told["node"], told["weight"]) == ("east", 0.25)


def test_a_sealed_round_whose_sum_was_none_is_in_the_ledger_with_nobody_in_it(
    tmp_path: Path,
) -> None:
    nodes = [SealedNode(name) for name in NAMES]
    nodes[2].bursts_in = {1}
    fed = sealed_federation(tmp_path, nodes)
    fed.run()
    told = verify(fed.home.folder, "--influence", "--replay")
    assert (told["rounds"], told["contributions"]) == (2, 4)
    assert told["not_replayed"] == [1, 2]
    assert {of["reasons"][RefusalCode.GARBLED] for of in told["influence"].values()} == {1}
    ledger = RoundLedger(fed.home, silent)
    ledger.mend()
    lost = ledger.entry(1).record
    assert (lost.vector_digest, lost.contributions) == (lost.base_digest, 4)


def test_a_sealed_round_that_is_recorded_otherwise_is_no_replay(tmp_path: Path) -> None:
    fed = sealed_federation(tmp_path, [SealedNode(name) for name in NAMES])
    fed.run()
    file = fed.home.round_folder(1) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Exception, match="round-00001") as told:
        verify(fed.home.folder, "--replay")
    assert told.value.exit_code in (LedgerError.exit_code, 21)  # type: ignore[attr-defined]


def test_sealed_contributions_cannot_be_archived(tmp_path: Path) -> None:
    nodes = [SealedNode(name) for name in NAMES]
    with pytest.raises(ConfigError, match="one by one"):
        sealed_federation(tmp_path, nodes, archive=True)

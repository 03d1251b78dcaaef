"""The aggregator's ledger: a leaf a sealed round, mended after kills, cosigned by nodes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.client.ledger import NodeLedger
from gobelin.protocols.ledger import Cosignature
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.verify import verify_path
from gobelin.server.verify_cli import app
from gobelin.shared.errors import (
    TwoHistoriesError,
)
from gobelin.shared.files import write_json
from gobelin.shared.ledger import PURPOSE, LedgerFolder, SignedEntry, verify_history
from tests.server.ledger.witness import (
    ROUNDS,
    Witness,
    ca,
    silent,
    snapshot,
)
from tests.server.world import Federation, Killed, Node, federation


def test_every_round_is_in_the_ledger_and_both_nodes_have_cosigned_every_head(
    made: Federation,
) -> None:
    history = LedgerFolder(made.home.ledger).read()
    told = verify_history(history, made.home.signing_key().public)
    assert (told.rounds, told.contributions) == (ROUNDS, 2 * ROUNDS)
    assert told.cosignatures == 2 * ROUNDS + 2  # and of the last head with the farewell
    assert sorted(told.witnesses) == ["north", "south"]
    for number, signed in enumerate(history.entries):
        sealed = made.sealed(number)
        assert signed.entry.record.vector_digest == sealed.vector.digest
        told_rows = {row["node"]: row["weight"] for row in sealed.facts.get("contributions", ())}
        assert {row.node: row.weight for row in signed.entry.rows} == told_rows


def test_nodes_keep_every_receipt_with_its_proof(made: Federation) -> None:
    for node in made.world.all.values():
        assert isinstance(node, Witness)
        receipts = sorted(node.home.receipts.glob("*.json"))
        assert len(receipts) == ROUNDS
        told = verify_path(receipts[1], ca(made.home), replayed=False, influence=False, memory=None)
        assert (told["node"], told["asked"], told["weight"]) == (node.name, 2, 0.5)
        shown = CliRunner().invoke(app, [str(receipts[1]), "--key", str(node.home.ca_file)])
        assert shown.exit_code == 0, shown.exception
        assert shown.stdout.startswith("receipt holds: ")


def test_a_lost_ledger_is_made_again_to_the_bit_but_for_cosignatures(
    home: AggregatorHome,
) -> None:
    before = snapshot(home.ledger)
    shutil.rmtree(home.ledger / "rounds")
    shutil.rmtree(home.ledger / "heads")
    RoundLedger(home, silent).mend()
    after = snapshot(home.ledger)
    assert after.keys() == before.keys()
    for name, data in after.items():
        assert before[name].startswith(data)  # cosignatures stand behind


@pytest.mark.parametrize("lost", ["rounds/00004.json", "heads/00005.note", "both"])
def test_what_a_kill_left_out_is_written_at_the_next_start(home: AggregatorHome, lost: str) -> None:
    names = ["rounds/00004.json", "heads/00005.note"] if lost == "both" else [lost]
    before = snapshot(home.ledger)
    for name in names:
        (home.ledger / name).unlink()
    for _ in range(2):
        RoundLedger(home, silent).mend()
    after = snapshot(home.ledger)
    assert after.keys() == before.keys()
    assert all(before[name].startswith(after[name]) for name in after)


@pytest.mark.parametrize("writer", ["put_entry", "put_head"])
def test_a_kill_between_seal_and_leaf_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    fed = federation(tmp_path, Node("a"), Node("b"))
    with monkeypatch.context() as patch:
        calls = []
        write = getattr(LedgerFolder, writer)

        def dying(folder: LedgerFolder, signed: Any) -> None:
            calls.append(signed)
            if len(calls) == 2:  # of round 1: that of round 0 comes first
                raise Killed
            write(folder, signed)

        patch.setattr(LedgerFolder, writer, dying)
        with pytest.raises(Killed):
            fed.run()
    assert fed.home.sealed_rounds() == [0, 1]
    fed.run()
    told = verify_history(LedgerFolder(fed.home.ledger).read(), fed.home.signing_key().public)
    assert (told.rounds, told.contributions) == (2, 4)


def test_rounds_sealed_before_there_was_a_ledger_get_their_leaves(tmp_path: Path) -> None:
    """Their manifests say nothing of rosters and aggregates."""
    fed = federation(tmp_path, Node("a"), Node("b"))
    fed.run()
    shutil.rmtree(fed.home.ledger)
    for number in (1, 2):
        manifest = fed.home.manifest(number)
        for name in ("roster_digest", "aggregate_digest", "policy"):
            del manifest["facts"][name]
        write_json(fed.home.round_folder(number) / "manifest.json", manifest)
    entries = []
    for _ in range(2):
        RoundLedger(fed.home, silent).mend()
        history = LedgerFolder(fed.home.ledger).read()
        verify_history(history, fed.home.signing_key().public)
        entries.append(history.entries)
        shutil.rmtree(fed.home.ledger)
    assert entries[0] == entries[1]
    assert entries[0][2].entry.record.roster_digest == ""


def test_an_aggregator_with_another_past_does_not_start(home: AggregatorHome) -> None:
    folder = LedgerFolder(home.ledger)
    signed = folder.entry(ROUNDS)
    assert signed is not None
    record = dataclasses.replace(signed.entry.record, aggregate_digest="0" * 64)
    entry = dataclasses.replace(signed.entry, record=record)
    folder.put_entry(SignedEntry(entry, home.signing_key().sign(PURPOSE, entry.canonical)))
    with pytest.raises(TwoHistoriesError, match="two histories"):
        RoundLedger(home, silent).mend()


def test_an_aggregator_whose_rounds_went_back_does_not_start(home: AggregatorHome) -> None:
    shutil.rmtree(home.round_folder(ROUNDS))
    with pytest.raises(TwoHistoriesError, match=f"the ledger has round {ROUNDS}") as told:
        RoundLedger(home, silent).mend()
    assert told.value.exit_code == 42


@pytest.mark.parametrize("size", [0, 3, 99])
def test_a_cosignature_that_is_none_is_told_and_kept_nowhere(
    home: AggregatorHome, node: Witness, size: int
) -> None:
    events = []
    ledger = RoundLedger(home, lambda event, facts: events.append((event, facts)))
    ledger.mend()
    before = snapshot(home.ledger)
    good = Cosignature.from_bytes(NodeLedger(node.home).cosignature())
    for bad in (
        dataclasses.replace(good, size=size).to_bytes(),
        dataclasses.replace(good, signature="zz").to_bytes(),
        dataclasses.replace(good, time=good.time + 1).to_bytes(),
        b"{}",
    ):
        ledger.take(node.id, bad)
    ledger.take("0" * 64, good.to_bytes())  # not on the roster: nobody
    ledger.take(node.id, good.to_bytes())  # and this one is there already
    assert snapshot(home.ledger) == before
    assert [event for event, _ in events] == ["cosignature_refused"] * 4
    assert {facts["node"] for _, facts in events} == {"north"}

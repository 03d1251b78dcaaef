"""What nodes believe of the ledger, and what ends them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from gobelin.client.accept import accept_path
from gobelin.client.ledger import NodeLedger
from gobelin.protocols.messages import Receipt, RoundPlan
from gobelin.server.courier import Parcel
from gobelin.server.export import export
from gobelin.server.ledger import RoundLedger
from gobelin.shared.errors import (
    EnvelopeReplayedError,
    GobelinError,
    LedgerError,
    SignatureError,
    TwoHistoriesError,
)
from tests.server.ledger.witness import (
    NOW,
    ROUNDS,
    Witness,
    forked,
    offers,
    silent,
    snapshot,
)
from tests.server.world import Federation


def test_a_node_refuses_to_go_back(made: Federation, node: Witness) -> None:
    with pytest.raises(TwoHistoriesError, match="two histories") as told:
        node.hear(offers(made, "north")[1])
    assert told.value.exit_code == 42
    assert len(list(node.home.heads.glob("other-*.note"))) == 1


def test_a_delayed_offer_of_a_finished_round_is_a_replay_and_accuses_nobody(
    made: Federation, node: Witness
) -> None:
    shutil.rmtree(node.home.heads)
    first, second, third = offers(made, "north")[:3]
    for at, parcel in enumerate((first, second, third), start=NOW + 10):
        node.hear(parcel, issued=at)
    (node.home.heads / "00002.note").unlink()
    for late in (first, second):  # the head of one is known here, that of the other is not
        with pytest.raises(EnvelopeReplayedError, match="an offer from before"):
            node.hear(late, issued=NOW + 11)
    assert not list(node.home.heads.glob("other-*.note"))
    with pytest.raises(TwoHistoriesError, match="two histories"):
        node.hear(first, issued=NOW + 13)  # said anew, it is a step back
    node.hear(third, issued=NOW + 13)


def test_a_delayed_offer_of_another_story_is_a_fork(
    made: Federation, node: Witness, tmp_path: Path
) -> None:
    fork = forked(made, tmp_path / "fork")
    shutil.rmtree(node.home.heads)
    for number, parcel in enumerate(offers(made, "north")[:4]):
        node.hear(parcel, issued=NOW + 10 + number)
    other = next(p for p in offers(fork, "north") if p.ledger and p.ledger.head.size == 3)
    with pytest.raises(TwoHistoriesError, match="two histories"):
        node.hear(other, issued=NOW + 5)


def test_a_fork_is_refused_and_both_heads_are_kept(
    made: Federation, node: Witness, tmp_path: Path
) -> None:
    fork = forked(made, tmp_path / "fork")
    shutil.rmtree(node.home.heads)
    for parcel in offers(made, "north")[:3]:  # it knows rounds 0 to 2
        node.hear(parcel)
    known = snapshot(node.home.heads)
    same, longer = (p for p in offers(fork, "north") if p.ledger and p.ledger.head.size in (3, 4))
    for parcel in (same, longer):
        with pytest.raises(TwoHistoriesError, match="two histories"):
            node.hear(parcel)
    kept = snapshot(node.home.heads)
    assert known.items() <= kept.items()
    assert len(kept) == len(known) + 2
    newest = NodeLedger(node.home).newest()
    assert newest is not None
    assert newest.head.size == 3


def lies(parcel: Parcel) -> dict[str, tuple[Parcel, type[GobelinError]]]:
    """The same parcel, not quite true."""
    view, plan = parcel.ledger, parcel.message
    assert view is not None
    assert isinstance(plan, RoundPlan)
    head = view.head

    def bent(**changes: Any) -> Parcel:
        return dataclasses.replace(parcel, ledger=dataclasses.replace(view, **changes))

    (receipt, *others) = [r for r in parcel.receipts if r.counted]
    heavier = (dataclasses.replace(receipt, weight=0.9), *others)
    other = (dataclasses.replace(receipt, delta_digest="0" * 64), *others)
    resigned = dataclasses.replace(head, signature="00" * 64)
    return {
        "unsigned head": (bent(head=resigned), SignatureError),
        "another size": (bent(head=dataclasses.replace(head, size=head.size + 1)), SignatureError),
        "another root": (bent(head=dataclasses.replace(head, root="00" * 32)), SignatureError),
        "no hex": (bent(head=dataclasses.replace(head, signature="zz")), SignatureError),
        "no proof of the past": (bent(consistency=()), LedgerError),
        "no proofs of receipts": (bent(proofs=()), LedgerError),
        "another base": (
            dataclasses.replace(parcel, message=dataclasses.replace(plan, base_digest="0" * 64)),
            LedgerError,
        ),
        "another weight": (dataclasses.replace(parcel, receipts=heavier), LedgerError),
        "another delta": (dataclasses.replace(parcel, receipts=other), LedgerError),
    }


LIES = [
    *("unsigned head", "another size", "another root", "no hex", "no proof of the past"),
    *("no proofs of receipts", "another base", "another weight", "another delta"),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_node_believes_nothing_that_is_not_proved(
    made: Federation, node: Witness, lie: str
) -> None:
    shutil.rmtree(node.home.heads)
    shutil.rmtree(node.home.receipts)
    first, second, third = offers(made, "north")[:3]
    node.hear(first)
    node.hear(second)
    before = snapshot(node.home.folder)
    parcel, error = lies(third)[lie]
    with pytest.raises(error):
        node.hear(parcel)
    assert snapshot(node.home.folder) == before
    node.hear(third)


def test_a_node_that_was_away_goes_on_where_it_was(made: Federation, node: Witness) -> None:
    shutil.rmtree(node.home.heads)
    node.hear(offers(made, "north")[0])
    ledger = RoundLedger(made.home, silent)
    ledger.mend()
    ledger._cosigned.clear()  # its cosignatures never arrived
    receipts: tuple[Receipt, ...] = offers(made, "north")[-1].receipts
    view = ledger.show(node.id, receipts)
    assert [proof.size for proof in view.consistency] == [1, 2, 3, 4]
    NodeLedger(node.home).hear("fed", view, receipts, None, NOW)
    newest = NodeLedger(node.home).newest()
    assert newest is not None
    assert newest.head.size == ROUNDS + 1


def test_an_export_brings_a_nodes_memory_up_to_date(
    made: Federation, node: Witness, tmp_path: Path
) -> None:
    shutil.rmtree(node.home.heads)
    node.hear(offers(made, "north")[0])
    export(made.home, tmp_path / "export")
    assert accept_path(node.home, tmp_path / "export")["rounds"] == ROUNDS
    fork = forked(made, tmp_path / "fork")
    export(fork.home, tmp_path / "other")
    with pytest.raises(TwoHistoriesError):
        accept_path(node.home, tmp_path / "other")

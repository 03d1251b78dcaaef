"""Whole ledgers: what was signed for ever holds, and no field of it can change unseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.ledger_mutations import run
from gobelin.protocols.ledger import RoundRecord
from gobelin.shared.errors import GobelinError, LedgerError, SignatureError, TwoHistoriesError
from gobelin.shared.ledger import (
    PURPOSE,
    Entry,
    History,
    LedgerFolder,
    SignedEntry,
    Tree,
    TreeHead,
    check_proof,
    cosign,
    influence_of,
    leaf_hash,
    sign_head,
    verify_history,
)
from tests.keys import signing_key
from tests.ledgers import aggregator, entry_of_round, history_of, key_of
from tests.shared.ledger.make_golden import FOLDER

KEY = aggregator().public
WHOLE = history_of(6, 3)


def test_the_golden_ledger_verifies_and_is_made_again_to_the_bit() -> None:
    golden = LedgerFolder(FOLDER).read()
    assert golden == history_of(2, 2)
    told = verify_history(golden, KEY)
    assert (told.rounds, told.cosignatures, told.witnesses) == (2, 6, ("n0", "n1"))
    assert told.head.head.root.hex() == (
        "72090d3381bd16f153cebb0f926af597e4846f200436a749adca5cf992fa7bb7"
    )


def test_a_sample_of_mutations_is_detected() -> None:
    found = run(rounds=2, nodes=2, every=5)
    assert found["tried"] > 100
    assert found["which"] == []


@pytest.mark.slow
def test_every_mutation_is_detected() -> None:
    assert run(rounds=3, nodes=3)["which"] == []


def resigned(history: History, changes: dict[int, Entry]) -> History:
    """The same ledger with other rounds, all of it signed by the aggregator itself."""
    key, tree, entries, heads = aggregator(), Tree(), [], {}
    for number, signed in enumerate(history.entries):
        entry = changes.get(number, signed.entry)
        entries.append(SignedEntry(entry, key.sign(PURPOSE, entry.canonical)))
        tree.append(entry.leaf)
        head = TreeHead(history.heads[1].head.origin, len(tree), tree.root())
        heads[len(tree)] = sign_head(key, head)
    return History(entries, heads, history.rosters)


def with_record(entry: Entry, **changes: object) -> Entry:
    return Entry(dataclasses.replace(entry.record, **changes), entry.rows)  # type: ignore[arg-type]


def with_row(entry: Entry, index: int, **changes: object) -> Entry:
    rows = list(entry.rows)
    rows[index] = dataclasses.replace(rows[index], **changes)  # type: ignore[arg-type]
    made = Tree(leaf_hash(row.to_bytes()) for row in rows)
    record = dataclasses.replace(entry.record, contributions_root=made.root().hex())
    return Entry(record, tuple(rows))


LIES: dict[str, tuple[Callable[[Entry], Entry], str]] = {
    "another base": (lambda e: with_record(e, base_digest="0" * 64), "does not start"),
    "another round": (lambda e: with_record(e, round=9), "stands where"),
    "another federation": (lambda e: with_record(e, federation="other"), "several federations"),
    "a roster nobody has": (lambda e: with_record(e, roster_digest="0" * 64), "roster"),
    "rows left out": (lambda e: Entry(e.record, e.rows[1:]), "not those recorded"),
    "more than one": (lambda e: with_row(e, 0, weight=0.9), "more than one"),
    "an earlier answer again": (lambda e: with_row(e, 0, asked=1), "twice"),
    "a row of another round": (lambda e: with_row(e, 0, round=2), "another round"),
    "another member": (lambda e: with_row(e, 0, member="m9"), "which the roster does not"),
    "counted for a reason": (lambda e: with_row(e, 0, reason="stale"), "not counted"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_aggregator_that_signs_a_lie_is_found_out(lie: str) -> None:
    change, told = LIES[lie]
    history = resigned(WHOLE, {3: change(WHOLE.entries[3].entry)})
    with pytest.raises(LedgerError, match=told):
        verify_history(history, KEY)


def test_a_ledger_signed_anew_verifies_without_the_cosignatures() -> None:
    verify_history(resigned(WHOLE, {}), KEY)  # so it is the lies above that are refused


def test_cosignatures_hold_the_aggregator_to_what_it_has_signed() -> None:
    """It signs round 3 anew, and keeps the heads that nodes have cosigned."""
    change = with_record(WHOLE.entries[3].entry, aggregate_digest="0" * 64)
    history = resigned(WHOLE, {3: change})
    with pytest.raises(TwoHistoriesError, match="two histories"):
        verify_history(dataclasses.replace(history, heads=WHOLE.heads), KEY)


def test_another_key_a_missing_head_and_a_head_too_many_are_refused() -> None:
    with pytest.raises(SignatureError):
        verify_history(WHOLE, signing_key(1).public)
    heads = {size: head for size, head in WHOLE.heads.items() if size != 4}
    with pytest.raises(LedgerError, match="round 3 has no head"):
        verify_history(dataclasses.replace(WHOLE, heads=heads), KEY)
    with pytest.raises(TwoHistoriesError, match="two histories"):
        verify_history(dataclasses.replace(WHOLE, entries=WHOLE.entries[:-1]), KEY)
    with pytest.raises(LedgerError):
        verify_history(History([], {}), KEY)


def test_a_cosignature_by_no_node_of_the_roster_is_refused() -> None:
    head = WHOLE.heads[2]
    for key, name in ((signing_key(99), "n0"), (key_of(0), "stranger")):
        line = cosign(key, name, head.head, 1)
        bent = dataclasses.replace(head, lines=(head.lines[0], line))
        with pytest.raises(SignatureError, match="cosignature"):
            verify_history(dataclasses.replace(WHOLE, heads={**WHOLE.heads, 2: bent}), KEY)


def test_a_receipt_is_one_row_and_two_paths() -> None:
    entry, tree = WHOLE.entries[4].entry, Tree(s.entry.leaf for s in WHOLE.entries)
    index = entry.find(entry.rows[1].id, 4)
    assert index == 1
    proof = entry.proof(tree, 7, index)
    assert check_proof(proof, 7, tree.root()) == (entry.record, entry.rows[1])
    other = entry.rows[0].to_bytes().decode()
    bent = [
        dataclasses.replace(proof, row=other),
        dataclasses.replace(proof, row_index=0),
        dataclasses.replace(proof, record=WHOLE.entries[3].entry.canonical.decode()),
        dataclasses.replace(proof, path=proof.path[64:]),
        dataclasses.replace(proof, row_path=""),
        dataclasses.replace(proof, record="{}"),
    ]
    for lie in bent:
        with pytest.raises(LedgerError):
            check_proof(lie, 7, tree.root())
    with pytest.raises(LedgerError):
        check_proof(proof, 7, bytes(32))


def test_influence_is_read_from_the_rows() -> None:
    told = influence_of((signed.entry for signed in WHOLE.entries), len(WHOLE.entries) - 1, {})
    assert sorted(told) == ["m0", "m1", "m2"]
    assert sum(of["share"] for of in told.values()) == pytest.approx(1.0)
    rows = [row for s in WHOLE.entries for row in s.entry.rows if row.member == "m2"]
    assert told["m2"]["counted"] == sum(row.counted for row in rows)
    assert sum(told["m2"]["reasons"].values()) == sum(not row.counted for row in rows)


def test_a_damaged_file_is_a_typed_error(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path / "ledger")
    folder.put_entry(WHOLE.entries[0])
    folder.put_head(WHOLE.heads[1])
    file = tmp_path / "ledger" / "rounds" / "00000.json"
    for data in (b"", b"[]", b"{", b"\xff", file.read_bytes() + b"\n", b'{"record": 1}'):
        file.write_bytes(data)
        with pytest.raises(GobelinError):
            folder.read()


def test_a_record_is_bound_to_its_fields() -> None:
    entry = entry_of_round(1, 2)
    assert RoundRecord.from_bytes(entry.canonical) == entry.record
    leaves = {
        dataclasses.replace(entry.record, **{field.name: other}).digest
        for field in dataclasses.fields(entry.record)
        for other in ([7] if field.type == "int" else ["x"])
    }
    assert len(leaves) == len(dataclasses.fields(entry.record))

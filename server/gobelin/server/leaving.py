"""Leaving: a node goes, with the record of it, its receipts and the last consensus by digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gobelin.protocols.enrolment import (
    LEAVE,
    PURPOSE_DEPARTURE,
    PURPOSE_EXIT,
    Departure,
    Exit,
    digest_of_receipts,
)
from gobelin.protocols.messages import PENDING, MalformedMessageError, Receipt
from gobelin.server.places import Places
from gobelin.server.roster_book import entry_of
from gobelin.shared.errors import EnrolmentError
from gobelin.shared.files import MANIFEST, read_json
from gobelin.shared.ledger.folder import LedgerFolder
from gobelin.shared.roster_log import Signed
from gobelin.shared.signing import SigningKey, verify


@dataclass(frozen=True)
class Left:
    """What a node that has left is given."""

    confirmed: Exit
    signature: str
    receipts: list[Receipt]
    records: list[Signed]  # the roster log up to its leaving


def leave(places: Places, node_id: str, departure: bytes, signature: str) -> Left:
    """Take a node off the roster, once, and tell what it earned.

    Raises EnrolmentError unless the node signed a departure from this federation.
    """
    digest = places.federation_digest()
    with places.book.change(places.signing_key_file) as change:
        last = change.log.last_of(node_id)
        if last is None:
            raise EnrolmentError("this node was never on the roster")
        _require_signed(departure, signature, last.record.signing_key, (digest, node_id))
        if node_id in change.log.current:
            last = change.make(LEAVE, entry_of(last.record))
        records = change.log.records[: last.record.index + 1]
    sealed = places.sealed_rounds()
    receipts = receipts_of(places, node_id, sealed)
    manifest = read_json(places.round_folder(sealed[-1]) / MANIFEST)
    confirmed = Exit(
        federation=places.front().name,
        federation_digest=digest,
        member=last.record.member,
        node=last.record.node,
        node_id=node_id,
        record_digest=last.record.digest,
        receipts=len(receipts),
        receipts_digest=digest_of_receipts(receipts),
        round=sealed[-1],
        consensus_digest=str(manifest["vector_digest"]),
    )
    key = SigningKey.load(places.signing_key_file)
    return Left(confirmed, key.sign(PURPOSE_EXIT, confirmed.to_bytes()), receipts, records)


def receipts_of(places: Places, node_id: str, sealed: Iterable[int]) -> list[Receipt]:
    """What became of a node's contributions, from the facts of sealed rounds, in order of rounds.

    Of what did not count only the last ones are remembered. Rounds whose checkpoints are not here
    any more are told by the ledger.
    """
    name, found = places.front().name, dict[int, Receipt]()
    here, ledger = set(sealed), LedgerFolder(places.ledger)
    for number in sorted({*here, *(n for n in ledger.numbers() if n < max(here))}):
        facts = places.find_facts(number)
        if facts is None:
            signed = ledger.entry(number)
            for told_row in signed.entry.rows if signed else ():
                if told_row.id == node_id and told_row.counted:
                    digest, asked = told_row.delta_digest, told_row.asked
                    found[asked] = Receipt(name, asked, digest, True, "", told_row.weight)
            continue
        for row in facts.get("contributions", ()):
            if row["id"] == node_id:
                made_for = number - row["staleness"]
                weight = float(row["weight"])
                found[made_for] = Receipt(name, made_for, row["delta_digest"], True, "", weight)
        for told in facts.get("nodes", {}).get(node_id, {}).get("receipts", ()):
            if told["reason"] != PENDING:
                found.setdefault(told["round"], Receipt(**told))
    return [found[number] for number in sorted(found)]


def _require_signed(data: bytes, signature: str, key: str, wanted: tuple[str, str]) -> None:
    verify(key, PURPOSE_DEPARTURE, data, signature)
    try:
        asked = Departure.from_bytes(data)
    except MalformedMessageError as error:
        raise EnrolmentError(f"the departure is malformed: {error}") from None
    if (asked.federation_digest, asked.node) != wanted:
        raise EnrolmentError("this departure is from another federation, or another node's")

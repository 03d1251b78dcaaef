"""Taking over: another aggregator goes on from what the last one has exported.

It verifies all of it, has keys of its own, and signs ledger and roster log anew. Who was on the
roster is admitted to a log of its own, for a federation with another CA has another digest. Roots
and cosignatures stay what they are, for nodes cosign a head and not who has signed it: so members
who pin the new ca.pem see at the first offer whether it tells the history that they know.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gobelin.protocols.enrolment import PURPOSE_RECORD
from gobelin.server.export import FILES
from gobelin.server.founding import choose_address, second_port
from gobelin.server.home import AggregatorHome
from gobelin.server.roster_book import roster_of
from gobelin.server.verify import verify_home
from gobelin.shared.address import format_address
from gobelin.shared.errors import StateError
from gobelin.shared.files import folder_atomic
from gobelin.shared.keys import write_authority
from gobelin.shared.ledger import (
    PURPOSE,
    History,
    LedgerFolder,
    SignedEntry,
    sign_head,
)
from gobelin.shared.roster_log import RosterLog, Signed
from gobelin.shared.settings import write_settings
from gobelin.shared.signing import SigningKey

FOLDERS = ("rounds", "archive")  # releases stay with those who have them, and the key before


def take_over(folder: Path, exported: Path, public: str, address: str) -> dict[str, Any]:
    """Write an aggregator's home from an export, whole or not at all.

    `public` is the key of the aggregator before. Raises what `verify_home` does on an export that
    does not hold, StateError where something is in the way.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} is not empty", "choose an empty or new --home")
    source = AggregatorHome(exported)
    told = verify_home(source, public)
    host, port = choose_address(address)
    settings = source.settings()
    service = second_port(address, host, port)
    ports = {"port": port, "service_port": service}
    network = settings.network.model_copy(update={"host": host, "listen": None, **ports})
    with folder_atomic(folder, new=True) as tmp:
        place = AggregatorHome(tmp)
        for name in FILES:
            shutil.copyfile(exported / name, tmp / name)
        for name in FOLDERS:
            if (exported / name).exists():
                shutil.copytree(exported / name, tmp / name)
        write_settings(place.settings_file, settings.model_copy(update={"network": network}))
        write_authority(place.tls, settings.name, {host, "localhost", "127.0.0.1"})
        _sign_anew(LedgerFolder(source.ledger).read(), LedgerFolder(place.ledger), place)
    return {
        "home": str(folder),
        "ca": str(AggregatorHome(folder).tls / "ca.pem"),
        "address": format_address(host, port),
        "service": format_address(host, service),
        "rounds": told["rounds"],
        "root": told["root"],
    }


def _sign_anew(history: History, to: LedgerFolder, place: AggregatorHome) -> None:
    key: SigningKey = place.signing_key()
    for signed in history.entries:
        signature = key.sign(PURPOSE, signed.entry.canonical)
        to.put_entry(SignedEntry(signed.entry, signature))
    for head in history.heads.values():
        to.put_head(sign_head(key, head.head).with_lines(head.lines[1:]))
    before = [_anew(key, records) for records in history.rosters]
    to.put_rosters([*before, []])
    if before and before[-1]:
        log = RosterLog(before[-1][0].record.previous, key.public)
        log.extend(before[-1])
        place.write_roster(roster_of(log))


def _anew(key: SigningKey, records: Sequence[Signed]) -> list[Signed]:
    """The same changes of the roster, which the new aggregator vouches for, too."""
    return [Signed(one.record, key.sign(PURPOSE_RECORD, one.record.to_bytes())) for one in records]

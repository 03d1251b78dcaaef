"""Backing up an aggregator's home while it runs, and restoring it.

What belongs together is a function of the last sealed round: its checkpoint, the ledger up to it
and the roster log as it is now, which only grows. The open round's journal goes along; what of it
is torn or missing its nodes are asked for again. Flower's database does not: it holds what is on
its way, which the journal and the nodes' spools know better, and `up` makes it anew.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from gobelin.server.home import AggregatorHome
from gobelin.server.rollcall import FILE as RESTORED
from gobelin.server.verify import verify_home
from gobelin.shared.backup import (
    Snapshot,
    back_up,
    files_under,
    restored,
)
from gobelin.shared.errors import StateError, TwoHistoriesError
from gobelin.shared.files import write_json
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.signing import find_signing_key

KIND = "aggregator"
PARTS = (
    *("federation.toml", "recipe.toml", "formats.json", "paused.json", "issued.json"),
    *("events.jsonl", "tls", "roster", "evidence", "enrolment", "releases", "rounds", "archive"),
    *("ledger", "before-upgrade", "journal/journal.jsonl", "journal"),
)
FROM_EXPORT = ("ledger", "roster", "rounds", "releases", "archive")


def back_up_home(home: AggregatorHome, to: Path, passphrase: str | None) -> dict[str, Any]:
    """Write a snapshot of a home, running or not, and verify it.

    Raises StateError where there is nothing sealed, and as `verify_home` does where the ledger does
    not hold: what is damaged is not kept as if it were whole.
    """
    home.require()
    sealed = home.sealed_rounds()
    if not sealed:
        raise StateError(f"{home.folder} holds no sealed round", "restore it from a backup")
    last = sealed[-1]
    folder = LedgerFolder(home.ledger)

    def passed_over(path: Path) -> bool:
        """Keys, and whatever is of a later round than the last sealed when this began."""
        if path.suffix == ".key" and path.parent == home.tls:
            return True
        top, *_ = path.relative_to(home.folder).parts
        number = _number(path, home)
        later = last + 1 if top == "ledger" and path.suffix == ".note" else last
        return number is not None and number > later

    state = {
        "federation": home.front().name,
        "sealed": last,
        "ledger": max(folder.numbers(), default=-1),
    }
    wanted = files_under(home.folder, *PARTS, but=passed_over)
    keys = sorted(home.tls.glob("*.key"))
    return back_up(home.folder, to, KIND, state, dict.fromkeys(wanted), keys, passphrase)


def _number(path: Path, home: AggregatorHome) -> int | None:
    """The round that a file is of, or the size of a head; None of what is of none."""
    inner = path.relative_to(home.folder)
    if inner.parts[0] in ("rounds", "releases", "archive") and len(inner.parts) > 1:
        text = inner.parts[1].rpartition("-")[2]
    elif inner.parts[0] == "ledger":
        text = inner.stem
    else:
        return None
    return int(text) if text.isdigit() else None


def restore_home(
    backup: Path,
    folder: Path,
    passphrase: str | None,
    exported: Path | None = None,
    number: int | None = None,
) -> dict[str, Any]:
    """Write a home from a backup, whole or not at all, and with it what an export has since.

    The restored aggregator hears its members before it opens a round (`rollcall`). Raises
    StateError where a home is in the way or the backup damaged, TwoHistoriesError where the export
    tells another history than the backup.
    """
    with restored(backup, folder, KIND, passphrase, number) as (tmp, snapshot):
        place = AggregatorHome(tmp)
        if exported is not None:
            _go_on(place, exported)
        told = _whole(place, snapshot)
        write_json(tmp / RESTORED, {"at": int(time.time()), **told})
    return {**told, "home": str(folder), "keys": passphrase is not None}


def _go_on(place: AggregatorHome, exported: Path) -> None:
    """Put what an export has in the place of what the backup had."""
    public = find_signing_key(place.ca_file.read_bytes(), str(place.ca_file))
    source = AggregatorHome(exported)
    verify_home(source, public)
    before, after = LedgerFolder(place.ledger), LedgerFolder(source.ledger)
    for number in before.numbers():
        if after.entry(number) != before.entry(number):
            raise TwoHistoriesError(
                f"two histories: round {number} is another in the export than in the backup"
                if after.entry(number)
                else f"the export ends before round {number}, which the backup has",
                "use an export of this federation that is newer than the backup",
            )
    for name in FROM_EXPORT:
        if (exported / name).exists():
            shutil.copytree(exported / name, place.folder / name, dirs_exist_ok=True)
    shutil.rmtree(place.journal, ignore_errors=True)  # of a round that is over


def _whole(place: AggregatorHome, snapshot: Snapshot) -> dict[str, Any]:
    """What a restored home says, once it is known to hold."""
    ledger = LedgerFolder(place.ledger)
    last = place.sealed_rounds()[-1]
    if max(ledger.numbers(), default=-1) == last and last + 1 in ledger.sizes():
        verify_home(place, find_signing_key(place.ca_file.read_bytes(), str(place.ca_file)))
    return {"sealed": last, "backup_made": snapshot.made, "backup_sealed": snapshot.state["sealed"]}

"""What a node takes from outside of a round: a release, or the whole ledger as it was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gobelin.client.home import NodeHome
from gobelin.client.ledger import NodeLedger
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.release import Watch, verify_release

LEDGER = "ledger"  # the folder of it in an export


def accept_path(home: NodeHome, path: Path) -> dict[str, Any]:
    """Verify a release or an export against the pinned aggregator and remember it.

    Raises LedgerError, SignatureError or CheckpointError on what does not hold, TwoHistoriesError
    on what is older than what is known, or denies it.
    """
    home.settings()
    if (path / LEDGER).is_dir():
        told = NodeLedger(home).accept(LedgerFolder(path / LEDGER).read())
        said = f"accepted the ledger of {told.federation}: {told.rounds} rounds"
        return {**told.facts(), "said": said}
    release = verify_release(path, home.aggregator_key())
    Watch(home.newest_file).take(release.statement)
    statement = release.statement
    said = f"accepted release {statement.round} of {statement.federation}: "
    return {**release.facts(), "said": said + statement.vector_digest[:12]}

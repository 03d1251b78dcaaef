"""The export: what anybody may have of a federation, enough to check it all and to go on from it.

    ca.pem              the certificate, and the key that signs ledger and releases
    federation.toml recipe.toml
    ledger/  roster/  releases/
    rounds/round-N      the last consensus, all that the next round starts from, and the rounds
                        that it may still count answers to
    archive/ rounds/    of every round, where replays are wanted

No private key is in it, and no event log.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gobelin.server.archive import Archive
from gobelin.server.home import AggregatorHome
from gobelin.shared.errors import StateError
from gobelin.shared.files import folder_atomic
from gobelin.shared.ledger import History, LedgerFolder, verify_history
from gobelin.shared.signing import find_signing_key

CA = "ca.pem"
FILES = ("federation.toml", "recipe.toml")


def export(home: AggregatorHome, to: Path, replay: bool = False) -> dict[str, Any]:
    """Write an export into a new folder, whole or not at all; returns what its ledger says.

    `replay` adds every round and the archive. Raises StateError when something is there, and as
    `verify_history` does: what does not hold is not handed out.
    """
    home.require()
    if to.exists() and any(to.iterdir()):
        raise StateError(f"{to} is not empty", "choose an empty or new --to")
    pem = (home.tls / CA).read_bytes()
    history = LedgerFolder(home.ledger).settled()
    told = verify_history(history, find_signing_key(pem, str(home.tls / CA)))
    sealed = [number for number in home.sealed_rounds() if number <= told.rounds]
    last = 1 + home.settings().rounds.max_staleness  # that the next round may be answered late for
    wanted = sealed if replay else sealed[-last:]
    with folder_atomic(to, new=True) as tmp:
        (tmp / CA).write_bytes(pem)
        for name in FILES:
            shutil.copyfile(home.folder / name, tmp / name)
        _copy_ledger(history, LedgerFolder(AggregatorHome(tmp).ledger))
        folders = [*map(home.round_folder, wanted), *_releases(home, told.rounds)]
        archive = Archive(home.archive)
        folders += [archive.folder(n) for n in archive.rounds() if replay and n <= told.rounds]
        copied = [one for one in folders if _copy(one, tmp / one.relative_to(home.folder))]
        if wanted and home.round_folder(wanted[-1]) not in copied:
            raise StateError(
                f"round {wanted[-1]} was removed while it was copied: many have been sealed since",
                "export again, or let retention.checkpoints in federation.toml keep more",
            )
    rounds = sum(folder.parent == home.rounds for folder in copied)
    return {**told.facts(), "export": str(to), "rounds_exported": rounds}


def _copy(folder: Path, to: Path) -> bool:
    """Copy a folder, whole or not at all; False where retention has removed it meanwhile."""
    try:
        shutil.copytree(folder, to)
    except OSError:
        if folder.exists():
            raise
        shutil.rmtree(to, ignore_errors=True)
        return False
    return True


def _releases(home: AggregatorHome, last: int) -> list[Path]:
    """Folders of the releases up to a round."""
    folders = sorted(home.releases.glob("release-*"))
    return [folder for folder in folders if int(folder.name.removeprefix("release-")) <= last]


def _copy_ledger(history: History, to: LedgerFolder) -> None:
    """As it was read: the aggregator may have sealed a round since."""
    for signed in history.entries:
        to.put_entry(signed)
    for head in history.heads.values():
        to.put_head(head)
    to.put_rosters(history.rosters)

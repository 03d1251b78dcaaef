"""Backing up a node's home: its keys, its settings, and its word on what has left and counted.

The spool goes along, so a restored node goes on from the training state that it had. What left
after the backup is on no record here any more. Where the egress ledger holds a privacy budget it
could be spent twice, so such a node is restored only when its operator says that nothing has left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gobelin.client.home import NodeHome
from gobelin.client.ledger import NodeLedger
from gobelin.client.site_policy import read_policy
from gobelin.shared.backup import back_up, files_under, restored
from gobelin.shared.errors import PrivacyError

KIND = "node"
KEYS = ("node.key", "signing.key", "invite.key", "node.secret")
PARTS = (
    *("node.toml", "policy.toml", "ca.pem", "node.pub", "node.pem", "enrolment.json"),
    *("roster.jsonl", "pins.json", "plan.json", "uplink.json", "newest.json", "formats.json"),
    *("paused.json", "egress.jsonl", "heads", "receipts", "spool", "sealed", "exit"),
)


def back_up_home(home: NodeHome, to: Path, passphrase: str | None) -> dict[str, Any]:
    """Write a snapshot of a home, running or not, and verify it; releases can be had again."""
    settings = home.settings()
    newest = NodeLedger(home).newest()
    state = {
        "node": settings.node,
        "member": settings.member,
        "ledger": newest.head.size - 1 if newest else -1,
    }
    wanted = files_under(home.folder, *PARTS, but=lambda path: path.name in KEYS)
    keys = [home.folder / name for name in KEYS]
    return back_up(home.folder, to, KIND, state, dict.fromkeys(wanted), keys, passphrase)


def restore_home(
    backup: Path,
    folder: Path,
    passphrase: str | None,
    nothing_left_since: bool = False,
    number: int | None = None,
) -> dict[str, Any]:
    """Write a home from a backup, whole or not at all.

    Raises StateError where one is in the way or the backup is damaged, PrivacyError where a budget
    may have been spent since.
    """
    with restored(backup, folder, KIND, passphrase, number) as (tmp, snapshot):
        place = NodeHome(tmp)
        budget = place.settings().privacy or read_policy(place).max_epsilon
        if budget and not nothing_left_since:
            raise PrivacyError(
                "what has left this node since the backup is not on its egress ledger: its "
                "privacy budget could be spent twice",
                "copy the newest egress.jsonl over, or say --nothing-left-since",
            )
    return {**snapshot.state, "home": str(folder), "keys": passphrase is not None}

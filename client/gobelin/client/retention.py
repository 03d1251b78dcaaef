"""What of a node's past may go: fetched releases and old heads of the ledger."""

from __future__ import annotations

from gobelin.client.home import NodeHome
from gobelin.shared.files import remove_folder


def prune(home: NodeHome, releases: int, heads: int, dry_run: bool = False) -> list[str]:
    """Keep the newest of each; returns the names of what is gone, or would go.

    Heads that deny another one (`other-…`) are evidence, and stay.
    """
    fetched = sorted(path for path in home.releases.glob("release-[0-9]*") if path.is_dir())
    notes = sorted(home.heads.glob("[0-9]*.note"))
    gone = [*fetched[:-releases], *notes[:-heads]]
    if not dry_run:
        for path in gone:
            if path.is_dir():
                remove_folder(path)
            else:
                path.unlink()
    return [f"{path.parent.name}/{path.name}" for path in gone]

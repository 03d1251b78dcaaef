"""Commands of `gobelin node` about running it for months."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.console import tell
from gobelin.shared.options import AsJson, NoKeys, PassphraseFile
from gobelin.shared.upgrade_cli import DryRun, upgrade_home

Why = Annotated[str, typer.Option(help="One line for who looks at this node's status.")]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the node's group."""
    for command in (pause, resume, backup, restore, prune, upgrade):
        app.command()(command)


def pause(reason: Why = "", home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Decline plans until `resume`; what is under way is finished. Holds over restarts.

    The aggregator hears that this node is away by choice, not why.
    """
    from gobelin.client.home import NodeHome
    from gobelin.shared.pausing import begin_pause

    NodeHome(home).settings()
    made = begin_pause(home, reason)
    tell({"paused": True, "reason": made.reason, "since": made.since}, str(made), as_json)


def resume(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Take part in rounds again."""
    from gobelin.client.home import NodeHome
    from gobelin.shared.pausing import end_pause

    NodeHome(home).settings()
    ended = end_pause(home)
    said = "resumed" if ended else "was not paused"
    tell({"paused": False, "was_paused": ended is not None}, said, as_json)


def backup(
    to: Annotated[Path, typer.Option(help="A folder, which backups go on in, or a new .tar.")],
    passphrase_file: PassphraseFile = None,
    no_keys: NoKeys = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Back up this home, also while it runs: keys, settings, ledgers, spool. No data."""
    from gobelin.client.backup import back_up_home
    from gobelin.client.home import NodeHome
    from gobelin.shared.backup import read_passphrase

    told = back_up_home(NodeHome(home), to, read_passphrase(passphrase_file, no_keys))
    size, keys = told["copied_bytes"] / 1e6, "with" if told["keys"] else "without"
    tell(told, f"backed up {told['files']} files, {size:.3g} MB new, {keys} keys", as_json)


def restore(
    backup: Annotated[Path, typer.Argument(help="A backup's folder or .tar.")],
    snapshot: Annotated[
        int | None, typer.Option(min=1, help="Of a folder with several; the newest if left out.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    no_keys: NoKeys = False,
    nothing_left_since: Annotated[
        bool,
        typer.Option(
            "--nothing-left-since",
            help="Vouch that the node sent nothing since; where it has a privacy budget.",
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write a new home from a backup. Never run two nodes on the same keys."""
    from gobelin.client.backup import restore_home
    from gobelin.shared.backup import read_passphrase

    passphrase = read_passphrase(passphrase_file, no_keys)
    told = restore_home(backup, home, passphrase, nothing_left_since, snapshot)
    tell(told, f"restored node {told['node']!r} to {home}", as_json)


def prune(
    releases: Annotated[int, typer.Option(min=1, help="Fetched releases that stay.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="Of the ledger, that stay.")] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Remove old fetched releases and heads; receipts, egress ledger and evidence stay.

    The newest head proves all before it; the spool bounds itself to two rounds.
    """
    from gobelin.client.home import NodeHome
    from gobelin.client.retention import prune as remove
    from gobelin.shared.locks import sole_owner

    place = NodeHome(home)
    place.settings()
    with sole_owner(home):
        gone = remove(place, releases, heads, dry_run)
    would = "would remove" if dry_run else "removed"
    tell({"removed": gone}, f"{would} {len(gone)} files and folders", as_json)


def upgrade(dry_run: DryRun = False, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Bring this home to the formats of this gobelin, with a copy of what changes.

    Starting does it as well. Exit code 76: it is of a newer gobelin.
    """
    from gobelin.client.home import NodeHome
    from gobelin.shared.formats import NODE

    NodeHome(home).settings()
    upgrade_home(home, NODE, dry_run, as_json)

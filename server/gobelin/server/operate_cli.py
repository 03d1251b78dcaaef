"""Commands of `gobelin aggregator` about running it for months."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.console import tell
from gobelin.shared.options import AsJson, NoKeys, PassphraseFile
from gobelin.shared.upgrade_cli import DryRun, upgrade_home

Why = Annotated[str, typer.Option(help="One line that every node's operator reads.")]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the aggregator's group."""
    for command in (pause, resume, rollback, prune, upgrade, backup, restore):
        app.command()(command)


def pause(reason: Why = "", home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Open no new round until `resume`; the open one ends. Holds over restarts; nodes are told."""
    from gobelin.server.places import Places
    from gobelin.shared.pausing import begin_pause

    places = Places(home)
    places.require()
    made = begin_pause(home, reason)
    places.record(_event("paused", reason=made.reason))
    tell({"paused": True, "reason": made.reason, "since": made.since}, str(made), as_json)


def resume(
    trust_restore: Annotated[
        bool,
        typer.Option("--trust-restore", help="After a restore: do not wait to hear members."),
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """End a pause: the next round opens."""
    from gobelin.server.places import Places
    from gobelin.server.rollcall import confirm
    from gobelin.shared.pausing import end_pause

    places = Places(home)
    places.require()
    if trust_restore:
        confirm(home)
    ended = end_pause(home)
    if ended is not None:
        places.record(_event("resumed"))
    said = "resumed" if ended else "was not paused"
    tell({"paused": False, "was_paused": ended is not None}, said, as_json)


def rollback(
    to: Annotated[str, typer.Option(help="What is gone back to: round-5, or release-00010.")],
    reason: Annotated[str, typer.Option(help="One line; it stands in the ledger for ever.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Go back to what an earlier round has left; stop the aggregator first.

    Nothing is rewritten: the rollback is a sealed round of its own, in the ledger, and is released.
    """
    from gobelin.server.home import AggregatorHome
    from gobelin.server.rollback import roll_back

    place = AggregatorHome(home)
    done = roll_back(place, to, reason, lambda event, facts: place.record(_event(event, **facts)))
    lost = f"; {done['dropped']} contributions to the open round are dropped" * bool(
        done["dropped"]
    )
    tell(done, f"round {done['round']} is a rollback to round {done['to']}{lost}", as_json)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Remove what federation.toml's table `retention` lets go; every seal does it as well.

    Stop the aggregator first, but for --dry-run.
    """
    from gobelin.server.home import AggregatorHome
    from gobelin.server.retention import plan_pruning
    from gobelin.server.retention import prune as remove
    from gobelin.server.rollback import LINGER_S
    from gobelin.shared.locks import sole_owner

    place = AggregatorHome(home)
    settings = place.settings()
    asked = (place, settings.retention, settings.rounds.max_staleness)
    found = plan_pruning(*asked, tell=True)
    if not dry_run:
        with sole_owner(home), sole_owner(place.rounds, wait_s=LINGER_S):
            remove(*asked)
    would = "would remove" if dry_run else "removed"
    first = found.replayable
    left = "no round can be replayed" if first is None else f"replays start at round {first}"
    said = f"{would} {len(found.folders)} folders, {found.bytes / 1e6:.3g} MB; {left}"
    tell(found.facts(), said, as_json)


def backup(
    to: Annotated[Path, typer.Option(help="A folder, which backups go on in, or a new .tar.")],
    passphrase_file: PassphraseFile = None,
    no_keys: NoKeys = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Back up this home, also while it is up; a folder takes only what is new."""
    from gobelin.server.backup import back_up_home
    from gobelin.server.home import AggregatorHome
    from gobelin.shared.backup import read_passphrase

    told = back_up_home(AggregatorHome(home), to, read_passphrase(passphrase_file, no_keys))
    keys = "keys under the passphrase" if told["keys"] else "no keys"
    size = told["copied_bytes"] / 1e6
    sealed = told["state"]["sealed"]
    said = f"backed up round {sealed}: {told['files']} files, {size:.3g} MB new, {keys}; verified"
    tell(told, said, as_json)


def restore(
    backup: Annotated[Path, typer.Argument(help="A backup's folder or .tar.")],
    newer: Annotated[
        Path | None, typer.Option("--with", help="An export of the same federation, made since.")
    ] = None,
    snapshot: Annotated[
        int | None, typer.Option(min=1, help="Of a folder with several; the newest if left out.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    no_keys: NoKeys = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write a new home from a backup; it hears its members before it opens a round."""
    from gobelin.server.backup import restore_home
    from gobelin.shared.backup import read_passphrase

    passphrase = read_passphrase(passphrase_file, no_keys)
    told = restore_home(backup, home, passphrase, newer, snapshot)
    keys = "" if told["keys"] else f"; put its keys into {home / 'tls'} first"
    said = f"restored round {told['sealed']} to {home}{keys}: gobelin aggregator up --home {home}"
    tell(told, said, as_json)


def upgrade(dry_run: DryRun = False, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Bring this home to the formats of this gobelin, with a copy of what changes.

    Starting does it as well. Exit code 76: it is of a newer gobelin.
    """
    from gobelin.server.places import Places
    from gobelin.shared.formats import AGGREGATOR

    Places(home).require()
    upgrade_home(home, AGGREGATOR, dry_run, as_json)


def _event(event: str, **facts: Any) -> dict[str, Any]:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return {"at": at, "event": event, **facts}

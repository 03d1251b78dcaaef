"""Commands of `gobelin aggregator` about keeping it running: pause and resume."""

from __future__ import annotations

import datetime
import json
from typing import Annotated, Any

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson

Why = Annotated[str, typer.Option(help="One line that every node's operator reads.")]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the aggregator's group."""
    for command in (pause, resume, upgrade):
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


def resume(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """End a pause: the next round opens."""
    from gobelin.server.places import Places
    from gobelin.shared.pausing import end_pause

    places = Places(home)
    places.require()
    ended = end_pause(home)
    if ended is not None:
        places.record(_event("resumed"))
    said = "resumed" if ended else "was not paused"
    tell({"paused": False, "was_paused": ended is not None}, said, as_json)


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Bring this home to the formats of this gobelin, with a copy of what changes.

    Starting does it as well. Exit code 76: it is of a newer gobelin.
    """
    from gobelin.server.places import Places
    from gobelin.shared.files import sole_owner
    from gobelin.shared.formats import AGGREGATOR, behind, formats_of
    from gobelin.shared.formats import upgrade as bring

    places = Places(home)
    places.require()
    old = behind(home, AGGREGATOR)
    changed: dict[str, list[str]] = {}
    if not dry_run:
        with sole_owner(home, wait_s=1):
            changed = bring(home, AGGREGATOR)
    steps = [f"{name}: {was} to {now}" for name, (was, now) in old.items()]
    said = ("would change " if dry_run else "changed ") + ", ".join(steps) if old else "up to date"
    facts = {"formats": formats_of(home, AGGREGATOR), "behind": old, "files": changed}
    tell(facts, said, as_json)


def tell(facts: dict[str, Any], said: str, as_json: bool) -> None:
    """Print facts as JSON, or what is said of them."""
    print(json.dumps(facts, sort_keys=True) if as_json else said)


def _event(event: str, **facts: Any) -> dict[str, Any]:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return {"at": at, "event": event, **facts}

"""Commands of `gobelin node` about keeping it running: pause and resume."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from gobelin.client.options import DEFAULT_HOME, Home
from gobelin.shared.options import AsJson

Why = Annotated[str, typer.Option(help="One line for who looks at this node's status.")]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the node's group."""
    for command in (pause, resume, upgrade):
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


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Bring this home to the formats of this gobelin, with a copy of what changes.

    Starting does it as well. Exit code 76: it is of a newer gobelin.
    """
    from gobelin.client.home import NodeHome
    from gobelin.shared.files import sole_owner
    from gobelin.shared.formats import NODE, behind, formats_of
    from gobelin.shared.formats import upgrade as bring

    NodeHome(home).settings()
    old = behind(home, NODE)
    changed: dict[str, list[str]] = {}
    if not dry_run:
        with sole_owner(home, wait_s=1):
            changed = bring(home, NODE)
    steps = [f"{name}: {was} to {now}" for name, (was, now) in old.items()]
    said = ("would change " if dry_run else "changed ") + ", ".join(steps) if old else "up to date"
    facts = {"formats": formats_of(home, NODE), "behind": old, "files": changed}
    tell(facts, said, as_json)


def tell(facts: dict[str, Any], said: str, as_json: bool) -> None:
    """Print facts as JSON, or what is said of them."""
    print(json.dumps(facts, sort_keys=True) if as_json else said)

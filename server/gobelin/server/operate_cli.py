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
    for command in (pause, resume):
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


def tell(facts: dict[str, Any], said: str, as_json: bool) -> None:
    """Print facts as JSON, or what is said of them."""
    print(json.dumps(facts, sort_keys=True) if as_json else said)


def _event(event: str, **facts: Any) -> dict[str, Any]:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return {"at": at, "event": event, **facts}

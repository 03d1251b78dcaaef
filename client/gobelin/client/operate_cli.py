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
    for command in (pause, resume):
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


def tell(facts: dict[str, Any], said: str, as_json: bool) -> None:
    """Print facts as JSON, or what is said of them."""
    print(json.dumps(facts, sort_keys=True) if as_json else said)

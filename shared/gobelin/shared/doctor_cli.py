"""`gobelin doctor`: what will fail here, and the next command for each, before it does."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from gobelin.shared.options import AsJson

app = typer.Typer(add_completion=False)
ROOMS = {  # the file that makes a folder a home, and who has its checks
    "federation.toml": ("aggregator", "gobelin.server.doctor:checks"),
    "node.toml": ("node", "gobelin.client.doctor:checks"),
}
INVITED = ("node", "gobelin.client.doctor:checks_of_invite")
HOMES = ("node", "aggregator")  # where commands look unless told otherwise


@app.command()
def doctor(
    home: Annotated[
        Path | None, typer.Option(help="An aggregator's or a node's folder; else the one here.")
    ] = None,
    invite: Annotated[
        str, typer.Option(help="Before joining: look at the way to this invite's aggregator.")
    ] = "",
    invite_file: Annotated[
        Path | None, typer.Option(help="A file with the invite; - for standard input.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train no step, and send nothing to time the link.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what will fail on this machine, for an aggregator or a node; exits 74 if anything.

    Changes nothing in the home but the egress ledger, where what is sent is recorded.
    """
    from gobelin.shared.checkup import failed, print_checkup, run_checks
    from gobelin.shared.errors import CheckupError

    if invite or invite_file:
        role, room = INVITED
        checks = _load(room)(invite, invite_file)
    else:
        folder = home or _home_here()
        role, room = _room(folder)
        checks = _load(room)(folder, quick)
    rows = run_checks(checks)
    print_checkup(role, rows, as_json, sys.stdout.isatty())
    if failed(rows):
        raise typer.Exit(CheckupError.exit_code)


def _room(folder: Path) -> tuple[str, str]:
    """Whose home a folder is; raises StateError where it is nobody's."""
    from gobelin.shared.errors import StateError

    for file, room in ROOMS.items():
        if (folder / file).exists():
            return room
    raise StateError(
        f"{folder} is no home of an aggregator or a node",
        "name it by --home; before joining, give --invite",
    )


def _home_here() -> Path:
    """The one home where commands look for it."""
    from gobelin.shared.errors import StateError

    here = [Path(name) for name in HOMES if any((Path(name) / file).exists() for file in ROOMS)]
    if len(here) == 1:
        return here[0]
    what = "both ./node and ./aggregator are homes" if here else "there is no home here"
    raise StateError(what, "name one by --home; before joining, give --invite")


def _load(place: str) -> Any:
    """A function by module:name: a room is imported only when it is asked for."""
    module, name = place.split(":")
    return getattr(import_module(module), name)

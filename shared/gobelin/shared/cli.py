"""The `gobelin` command: finds the rooms' commands by entry point and prints errors as one line."""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import entry_points, version

import click
import typer

from gobelin.shared.errors import GobelinError, MachineError

GROUP = "gobelin.commands"
SUMMARIES = {
    "aggregator": "Found a federation and run its rounds.",
    "node": "Contribute to a federation from private data.",
    "doctor": "Look for what will fail here, and say what to do.",
    "evaluate": "Measure a checkpoint: probes, labels, shift, health, planning.",
    "audit": "Attack this node's own updates: inversion, membership, canaries.",
    "simulate": "Run a whole federation on this machine, for studies.",
    "data": "Prepare public data sets for nodes.",
    "release": "Get consensus releases, verified, from the aggregator or a folder.",
    "serve": "Answer for a sovereign model over HTTP.",
    "sovereign": "Build a region's own model on a consensus release.",
    "verify": "Check a release, a receipt or a whole history, offline.",
    "worldmodel": "Ask a world model: plan, foresee, judge what is plausible.",
}


class Rooms(click.Group):
    """A command group whose members are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the installed rooms' commands."""
        return sorted(point.name for point in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one room, or None."""
        for point in entry_points(group=GROUP, name=cmd_name):
            command = typer.main.get_command(point.load())
            command.name = cmd_name
            return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(cls=Rooms, help="Train one JEPA by many owners of private data.")
@click.version_option(version("gobelin"), prog_name="gobelin")
def gobelin() -> None:
    """Root of all commands."""


def fail(error: GobelinError, as_json: bool) -> None:
    """Print an error as one line (or one JSON object) on stderr."""
    if as_json:
        print(json.dumps(error.facts()), file=sys.stderr)
        return
    line = " ".join(str(error).split())
    print(f"gobelin: [{error.code}] {line}", file=sys.stderr)


def _of_machine(error: OSError) -> MachineError:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or type(error).__name__
    return MachineError(f"{where}{reason}", "check the path, its permissions and the free space")


def main() -> None:
    """Entry point of the console script."""
    # Of commands that end by themselves; what runs for months logs by `gobelin.shared.logs`.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        code = gobelin.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (GobelinError, OSError) as error:
        ours = error if isinstance(error, GobelinError) else _of_machine(error)
        fail(ours, as_json="--json" in sys.argv)
        sys.exit(ours.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)

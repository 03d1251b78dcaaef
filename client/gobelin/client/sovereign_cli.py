"""`gobelin sovereign`: what a region builds for itself on a consensus release."""

from __future__ import annotations

import typer

from gobelin.client.build_cli import build, example
from gobelin.client.export_cli import export
from gobelin.client.merge_cli import merge
from gobelin.client.rebase_cli import rebase
from gobelin.client.sovereign_evaluate_cli import evaluate

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(build)
app.command()(example)
app.command()(evaluate)
app.command()(export)
app.command()(rebase)
app.command()(merge)


@app.callback()
def sovereign() -> None:
    """Build a region's own model on a consensus release. Nothing flows back."""

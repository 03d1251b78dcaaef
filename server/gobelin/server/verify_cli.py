"""`gobelin verify …`: check a release, a receipt or a whole history, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gobelin.shared.options import AsJson

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(help="A release, a receipt, an export, or an aggregator's home.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(help="The ca.pem you were given; else one that lies beside what is checked."),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compute every round again from its archive.")
    ] = False,
    influence: Annotated[
        bool, typer.Option("--influence", help="Tell every member's influence, round by round.")
    ] = False,
    memory: Annotated[
        Path | None,
        typer.Option(help="Remember the release there, and refuse older and expired ones."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check what a federation says of itself. Nothing is asked of anybody, nothing is changed."""
    from gobelin.server.verify import verify_path

    told = verify_path(path, key, replayed=replay, influence=influence, memory=memory)
    if as_json:
        print(json.dumps(told, sort_keys=True))
        return
    print(told["said"])
    if not told["key_pinned"]:
        print(
            f"signed by {told['signed_by'][:16]}…, a key that lies beside it: "
            "pass the ca.pem you were given as --key"
        )
    shares = told.get("influence")
    for member, of in shares.items() if isinstance(shares, dict) else ():  # a receipt's is a figure
        print(f"  {member}: {of['share']:.1%} of all influence, {of['counted']} contributions")

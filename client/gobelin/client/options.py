"""Options that commands of a node and of the sovereign build share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Key = Annotated[Path | None, typer.Option(help="The federation's ca.pem; else the one in --home.")]
Unverified = Annotated[
    bool,
    typer.Option(
        "--unverified", help="Take a bare checkpoint, and say so in the lineage or report."
    ),
]
Home = Annotated[Path, typer.Option(help="The node's folder.")]
DEFAULT_HOME = Path("node")

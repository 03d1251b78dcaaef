"""Options of a node's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path, typer.Option(help="The node's folder.")]
DEFAULT_HOME = Path("node")

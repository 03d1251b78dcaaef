"""`upgrade`, of either role's home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gobelin.shared.console import tell
from gobelin.shared.formats import Format, behind, formats_of, upgrade
from gobelin.shared.locks import sole_owner

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")]


def upgrade_home(home: Path, of: Sequence[Format], dry_run: bool, as_json: bool) -> None:
    """Bring a home to the formats of this gobelin, and say what that changes."""
    old = behind(home, of)
    changed: dict[str, list[str]] = {}
    if not dry_run:
        with sole_owner(home):
            changed = upgrade(home, of)
    steps = [f"{name}: {was} to {now}" for name, (was, now) in old.items()]
    said = ("would change " if dry_run else "changed ") + ", ".join(steps) if old else "up to date"
    tell({"formats": formats_of(home, of), "behind": old, "files": changed}, said, as_json)

"""A build that was ended goes on: what is durable of it lies beside where the model will be.

`OUT.unfinished/` has the digest of all that fixes the build, and a checkpoint for every stage. It
is believed only for the very same build, and removed when that is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gobelin.shared.checkpoint import MANIFEST, Checkpoint, read_checkpoint, write_checkpoint
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import json_bytes, read_json, remove_folder, sweep, write_json
from gobelin.shared.locks import sole_owner
from gobelin.shared.recipe import Recipe

if TYPE_CHECKING:
    from gobelin.client.sovereign.stage import Standing

PLAN = "plan.json"


class Unfinished:
    """The folder of one build under way."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        self._claim(plan)

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on from."""
        return any(path.is_dir() for path in self.folder.iterdir())

    def load(self, stage: str) -> Checkpoint | None:
        """Where a stage stood; raises CheckpointError when what is there is damaged."""
        folder = self.folder / stage
        return read_checkpoint(folder) if (folder / MANIFEST).is_file() else None

    def save(self, stage: str, recipe: Recipe, standing: Standing) -> None:
        """Keep where a stage stands, whole or not at all."""
        extra = {
            "trainer": standing.state,
            "best": standing.best.tensors(),
            "added": standing.best_added,
        }
        write_checkpoint(self.folder / stage, recipe, standing.vector, standing.facts(), extra)

    def _claim(self, plan: Mapping[str, Any]) -> None:
        """What lies there is of this build; what is of another is removed."""
        digest = hashlib.sha256(json_bytes(plan)).hexdigest()
        file = self.folder / PLAN
        if file.is_file() and read_json(file).get("digest") == digest:
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                remove_folder(path)
        write_json(file, {"digest": digest})


@contextmanager
def unfinished_at(out: Path, plan: Mapping[str, Any]) -> Iterator[Unfinished]:
    """The durable state of a build to `out`, gone on a clean exit; for one process at a time.

    Raises StateError while another process builds there.
    """
    folder = out.absolute().with_name(f"{out.absolute().name}.unfinished")
    with sole_owner(folder):
        sweep(folder)
        unfinished = Unfinished(folder, plan)
        try:
            yield unfinished
        except GobelinError:
            if not unfinished.begun:
                remove_folder(folder)
            raise
        remove_folder(folder)

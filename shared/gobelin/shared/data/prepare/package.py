"""Package files that an operator has fetched: believed by their SHA-256 alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gobelin.shared.errors import DatasetError


@dataclass(frozen=True)
class Package:
    """A pinned file of a registry, and how an operator gets it."""

    name: str
    sha256: str
    fetch: str

    def read(self, file: Path | None) -> bytes:
        """The bytes of `file`; raises DatasetError unless it is the pinned one."""
        remedy = f"`{self.fetch}`, then --from {self.name} (SHA-256 {self.sha256})"
        if file is None or not file.is_file():
            missing = "no file was named" if file is None else f"there is no file {file}"
            raise DatasetError(f"{missing}: it takes the package {self.name}", remedy)
        content = file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DatasetError(f"{file} is not {self.name}: its SHA-256 is {found}", remedy)
        return content

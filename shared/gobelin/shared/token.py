"""The token that callers bear where others reach the server: in a file of its owner's alone."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from gobelin.shared.errors import ConfigError
from gobelin.shared.files import write_once

TOKEN = re.compile(r"[\x21-\x7e]{32,256}")  # what a header carries, and nobody guesses


def read_token(file: Path) -> str:
    """The token in a file, made there now if there is none; raises ConfigError on a weak one."""
    write_once(file, lambda: secrets.token_urlsafe(32).encode() + b"\n")
    try:
        found = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if not TOKEN.fullmatch(found):
        raise ConfigError(
            f"{file} holds no token: one has 32 to 256 characters and no spaces",
            "name a file that is not there yet, and one is made",
        )
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"{file} can be read by others", f"chmod 600 {file}")
    return found

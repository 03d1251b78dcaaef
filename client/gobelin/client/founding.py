"""Founding a node from command-line options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gobelin.client.home import NodeSettings, found_node
from gobelin.shared.data import kind_of
from gobelin.shared.errors import ConfigError


def found_from_options(folder: Path, ca: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Found a node; raises ConfigError or DataError before anything is written."""
    try:
        settings = NodeSettings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{key}: {problem['msg']} (found {problem['input']!r})") from None
    kind = kind_of(settings.data.path)
    home = found_node(folder, settings, ca)
    return {
        "home": str(folder),
        "node": settings.node,
        "member": settings.member,
        "public_key": str(home.public_key_file),
        "data": kind,
    }

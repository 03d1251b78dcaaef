"""Founding a node from command-line options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gobelin.client.home import NodeSettings, found_node
from gobelin.shared.address import parse_address
from gobelin.shared.data import kind_of
from gobelin.shared.settings import check_settings


def settings_from_options(values: Mapping[str, Any]) -> tuple[NodeSettings, str]:
    """A node's settings and the kind of its data; raises ConfigError or DataError."""
    settings = check_settings(NodeSettings, values, where="the options")
    parse_address(settings.aggregator)
    return settings, kind_of(settings.data.path)


def found_from_options(folder: Path, ca: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Found a node; raises ConfigError or DataError before anything is written."""
    settings, kind = settings_from_options(values)
    home = found_node(folder, settings, ca)
    return {
        "home": str(folder),
        "node": settings.node,
        "member": settings.member,
        "public_key": str(home.public_key_file),
        "data": kind,
    }

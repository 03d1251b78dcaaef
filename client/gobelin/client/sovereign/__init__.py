"""The sovereign build: a region's own model on a consensus release. Nothing flows back."""

from gobelin.client.sovereign.package import SovereignModel, load, read_package, write_package
from gobelin.client.sovereign.probe import Head, build_head, load_head, predict, save_head

__all__ = [
    "Head",
    "SovereignModel",
    "build_head",
    "load",
    "load_head",
    "predict",
    "read_package",
    "save_head",
    "write_package",
]

"""The sovereign build: a region's own model on a consensus release. Nothing flows back."""

from gobelin.client.sovereign.build import Given, build, make_model
from gobelin.client.sovereign.package import SovereignModel, load, read_package, write_package
from gobelin.client.sovereign.settings import BuildSettings

__all__ = [
    "BuildSettings",
    "Given",
    "SovereignModel",
    "build",
    "load",
    "make_model",
    "read_package",
    "write_package",
]

"""What is installed beside gobelin, and whether it is what this version was made for."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from gobelin.shared.checkup import Found, fail, ok

TOLD = ("gobelin", "torch", "flwr", "grpcio")  # their versions


def check_versions() -> Found:
    """Whether every library of the base is there, of a version that fits."""
    wrong = []
    for text in requires("gobelin") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} is not {need.specifier}")
    if wrong:
        return fail("versions", "; ".join(wrong), "pip install --upgrade --force-reinstall gobelin")
    told = ", ".join(f"{name} {version(name)}" for name in TOLD)
    return ok(f"{told}, Python {platform.python_version()}")

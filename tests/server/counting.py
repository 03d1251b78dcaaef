"""Contributions as a merge counts them, for tests that care about nothing but their members."""

from __future__ import annotations

from collections.abc import Iterable

from gobelin.server.merge import Counted


def counted(members: Iterable[str]) -> list[Counted]:
    """One plain contribution of each member named, in that order."""
    return [Counted(member) for member in members]

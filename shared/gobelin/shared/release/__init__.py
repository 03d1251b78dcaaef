"""Releases: consensus models that say who made them, and are refused on one flipped bit."""

from gobelin.shared.release.bundle import ReleaseKey
from gobelin.shared.release.release import Release, seal_release, verify_release
from gobelin.shared.release.watch import Watch

__all__ = ["Release", "ReleaseKey", "Watch", "seal_release", "verify_release"]

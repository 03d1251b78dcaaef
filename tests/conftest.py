"""What holds for all tests: none of them asserts a time, not even hypothesis's own."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

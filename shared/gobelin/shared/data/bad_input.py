"""Bad input: what cannot be trained on is refused, or skipped, counted and named."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Literal, TypeAlias

from gobelin.shared.errors import DataError
from gobelin.shared.logs import facts

log = logging.getLogger(__name__)

OnBad: TypeAlias = Literal["refuse", "skip"]
NAMED = 20  # a reason's first so many are named, in the log and in facts
EVERY = 1000  # and then every so manieth is logged
REMEDY = 'mend or remove it, or set on_bad = "skip"'


class BadInput:
    """The bad input a source has met so far: how often each reason, and the first names."""

    def __init__(self, on_bad: OnBad = "refuse") -> None:
        self.on_bad = on_bad
        self.counts: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    @property
    def total(self) -> int:
        """How much was skipped."""
        return self.counts.total()

    def meet(self, name: str, reason: str) -> None:
        """Skip `name` ("a/b.png", "t.csv, row 7"), counted and logged, or raise DataError.

        `reason` says what it is ("not a readable image"): one of a few fixed texts.
        """
        if self.on_bad == "refuse":
            raise DataError(f"{name} is {reason}", REMEDY)
        self.counts[reason] += 1
        count = self.counts[reason]
        if count <= NAMED:
            self.names.setdefault(reason, []).append(name)
        if count <= NAMED or count % EVERY == 0:
            told = facts("sample_skipped", sample=name, reason=reason, count=count)
            log.warning("skipped %s: %s (%d so far)", name, reason, count, extra=told)

    def facts(self) -> dict[str, Any]:
        """The same as plain data, for status files and `--json`."""
        return {
            reason: {"count": count, "first": list(self.names[reason])}
            for reason, count in sorted(self.counts.items())
        }

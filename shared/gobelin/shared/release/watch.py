"""Rollback and freeze: who updates remembers the newest release it has taken (after TUF).

An older release than the newest known is refused, and so is one whose time is over: whoever stands
between can then neither bring back an old model nor hide that there is a new one for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gobelin.protocols.ledger import ReleaseStatement
from gobelin.shared.errors import StaleError, StateError, TwoHistoriesError
from gobelin.shared.files import find_json, write_json
from gobelin.shared.locks import change

SKEW_S = 300  # by which clocks may differ


class Watch:
    """The newest release that was taken, in one file."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now

    def check(self, statement: ReleaseStatement) -> None:
        """Raise unless a verified release may be taken after those before.

        StaleError: older than the newest known, or its time is over, or has not come.
        TwoHistoriesError: another model of the same round. StateError: of another federation.
        """
        name, now = f"release {statement.round} of {statement.federation}", self._now()
        if now > statement.expires + SKEW_S:
            raise StaleError(
                f"{name} is no longer to be taken for the newest: its time is over",
                "ask the aggregator's operator for a newer one; check this machine's clock",
            )
        if now < statement.issued - SKEW_S:
            raise StaleError(f"{name} is from the future", "check this machine's clock")
        known = find_json(self._file)
        if known is None:
            return
        if known.get("federation") != statement.federation:
            raise StateError(
                f"{self._file} remembers releases of {known.get('federation')!r}",
                "use another file for another federation",
            )
        if statement.round < known["round"]:
            raise StaleError(
                f"{name} is older than release {known['round']}, which was taken before",
                "use the newer one",
            )
        same = statement.vector_digest == known["vector_digest"]
        if statement.round == known["round"] and not same:
            raise TwoHistoriesError(
                f"two histories: {name} is another model than the one taken before",
                "stop, and show both to the other members",
            )

    def take(self, statement: ReleaseStatement) -> None:
        """Remember a release as the newest, after `check`; others may be taking one, too."""
        told = {
            "federation": statement.federation,
            "round": statement.round,
            "vector_digest": statement.vector_digest,
            "expires": statement.expires,
        }
        with change(self._file):
            self.check(statement)
            write_json(self._file, told)

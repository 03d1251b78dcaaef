"""The rim: what rounds touch of the world, and how often they look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.server.courier import Courier
from gobelin.server.envelopes import Envelopes
from gobelin.server.home import AggregatorHome
from gobelin.server.journal import Journal
from gobelin.server.ledger import RoundLedger
from gobelin.server.quality import Examiner
from gobelin.server.seal import Sealer

POLL_S = (0.02, 0.2)  # between two looks for replies, at first and at most
LOOK_EVERY_S = 1.0  # who is online


@dataclass(frozen=True)
class Rim:
    """What rounds touch of the world."""

    home: AggregatorHome
    journal: Journal
    courier: Courier
    envelopes: Envelopes
    examiner: Examiner
    sealer: Sealer
    ledger: RoundLedger
    tell: Callable[[str, Mapping[str, Any]], None]  # into the event log
    clock: Callable[[], float]
    sleep: Callable[[float], None]

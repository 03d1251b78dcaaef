"""Which version of its messages a federation speaks.

A plan says it, an enrolment and its answer say it; what does not say any is of the first. It
changes only where messages do, so most upgrades of gobelin leave it as it is.

    1  what came before there were versions
    2  plans name the rollbacks behind them; rounds that are rollbacks in the ledger; notices
"""

from __future__ import annotations

import json
from typing import Any

PROTOCOL = 2  # what is spoken here
OLDEST = 1  # what is still understood: a node goes on with an aggregator that speaks it
FIRST = 1  # what is meant where nothing is said


def protocol_of(data: bytes) -> int:
    """The version that a message's bytes say they are of; `FIRST` where they say none.

    Asked before anything else: a later version may have fields that nobody here knows.
    """
    said = _values(data).get("protocol", FIRST)
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else FIRST


def is_message(data: bytes) -> bool:
    """Whether bytes have a message's form, of whatever version: what has not says nothing."""
    return bool(_values(data))


def _values(data: bytes) -> dict[str, Any]:
    """The fields of a message; none of what is no message."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}

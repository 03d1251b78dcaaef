"""What an answer means that is an error code and no contribution."""

from __future__ import annotations

from gobelin.protocols.messages import NOT_SPOOLED, PAUSED, SUPERSEDED
from gobelin.protocols.version import PROTOCOL
from gobelin.server.admission import Refusal
from gobelin.server.courier import MALFORMED, OVERSIZE
from gobelin.server.reasons import RefusalCode

NO_ANSWER = frozenset({NOT_SPOOLED, SUPERSEDED})  # nothing is wrong, and nothing is owed less
_MEANT = {
    f"gobelin:{RefusalCode.BASE_MISSING}": (RefusalCode.BASE_MISSING, "it is sent the whole base"),
    PAUSED: (RefusalCode.PAUSED, "it is asked again when it comes back"),
    OVERSIZE: (RefusalCode.OVERSIZE, "its parts were not read"),
    MALFORMED: (RefusalCode.MALFORMED, "not a contribution"),
} | {
    f"gobelin:{code}": (code, f"the plan is of protocol {PROTOCOL}")
    for code in (RefusalCode.NODE_TOO_OLD, RefusalCode.TOO_OLD_HERE)
}


def refusal_of(error: str) -> Refusal:
    """Why an answer with this code does not count; what nobody here knows is the node's error."""
    return Refusal(*_MEANT.get(error, (RefusalCode.NODE_ERROR, error)))

"""An error code that a node answers by says what to do, and to whom."""

from __future__ import annotations

import pytest

from gobelin.protocols.messages import PAUSED
from gobelin.protocols.version import PROTOCOL
from gobelin.server.answers import refusal_of
from gobelin.server.courier import MALFORMED, OVERSIZE
from gobelin.server.reasons import RefusalCode
from gobelin.shared.errors import AggregatorTooOldError, BaseMissingError, NodeTooOldError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (f"gobelin:{BaseMissingError.code}", RefusalCode.BASE_MISSING),
        (f"gobelin:{NodeTooOldError.code}", RefusalCode.NODE_TOO_OLD),
        (f"gobelin:{AggregatorTooOldError.code}", RefusalCode.TOO_OLD_HERE),
        (PAUSED, RefusalCode.PAUSED),
        (OVERSIZE, RefusalCode.OVERSIZE),
        (MALFORMED, RefusalCode.MALFORMED),
        ("gobelin:data", RefusalCode.NODE_ERROR),
        ("flower:7", RefusalCode.NODE_ERROR),
    ],
)
def test_a_code_is_refused_for_what_it_says(error: str, reason: RefusalCode) -> None:
    refusal = refusal_of(error)
    assert refusal.reason is reason
    assert refusal.found
    if reason is RefusalCode.NODE_ERROR:
        assert refusal.found == error
    if reason is RefusalCode.NODE_TOO_OLD:
        assert str(PROTOCOL) in refusal.found

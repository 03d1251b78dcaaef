"""An aggregator whose clock goes back says so, and is not taken for a replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.protocols.envelope import Envelope
from gobelin.protocols.messages import Farewell
from gobelin.server.envelopes import Envelopes
from gobelin.server.home import AggregatorHome
from gobelin.shared.errors import ClockError
from tests.server.world import Federation, World

BYE = Farewell("fed", 1, "v" * 64)


def issued(home: AggregatorHome, *times: float) -> list[int]:
    """When the aggregator says it has sealed something, at these times by its clock, in µs."""
    clock = iter([time for time in times for _ in range(1)])
    envelopes = Envelopes(home, lambda: next(clock))
    return [
        Envelope.from_bytes(envelopes.of_farewell(BYE, "m", "0" * 64, []).data).issued
        for _ in times
    ]


@pytest.fixture
def home(tmp_path: Path) -> AggregatorHome:
    return Federation(tmp_path / "home", World(), ()).home


def test_what_is_issued_is_later_than_all_before(home: AggregatorHome) -> None:
    assert issued(home, 1000.0, 1000.0, 900.0) == [1_000_000_000, 1_000_000_001, 1_000_000_002]
    assert issued(home, 950.0) > [1_000_000_000]  # also by the next process


def test_a_clock_that_was_set_back_is_named(home: AggregatorHome) -> None:
    issued(home, 10_000.0)
    with pytest.raises(ClockError, match="clock is 2 h behind the last plan") as told:
        issued(home, 2_800.0)
    assert told.value.exit_code == 45
    assert issued(home, 10_001.0) == [10_001_000_000]

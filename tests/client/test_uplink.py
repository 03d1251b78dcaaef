"""The egress budget: the least of what the operator allows, by what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.client.home import EgressSettings, NodeSettings
from gobelin.client.uplink import KEEP, Uplink, budget_bytes
from gobelin.shared.errors import ConfigError
from gobelin.shared.settings import check_settings


def test_without_limits_there_is_no_budget() -> None:
    assert budget_bytes(EgressSettings(), None) is None
    assert budget_bytes(EgressSettings(), 1e6) is None


def test_a_limit_in_seconds_waits_for_a_measured_rate() -> None:
    seconds = EgressSettings(seconds_per_round=20)
    assert budget_bytes(seconds, None) is None
    assert budget_bytes(seconds, 5e4) == 1e6


def test_the_tighter_limit_holds() -> None:
    both = EgressSettings(max_mb_per_round=2, seconds_per_round=20)
    assert budget_bytes(both, None) == 2e6
    assert budget_bytes(both, 5e4) == 1e6
    assert budget_bytes(both, 5e6) == 2e6


@pytest.mark.parametrize("name", ["max_mb_per_round", "seconds_per_round"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing_is_a_config_error(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        check_settings(
            NodeSettings,
            {
                "member": "north",
                "node": "north",
                "aggregator": "host:1",
                "data": {"path": "x"},
                "egress": {name: value},
            },
            "node.toml",
        )


def test_the_rate_is_that_of_the_last_sends_and_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "uplink.json"
    assert Uplink(file).bytes_per_second() is None
    Uplink(file).note(1000, 1.0)
    Uplink(file).note(3000, 1.0)
    assert Uplink(file).bytes_per_second() == 2000.0
    for _ in range(KEEP):
        Uplink(file).note(500, 1.0)
    assert Uplink(file).bytes_per_second() == 500.0


def test_a_reply_of_which_nothing_had_to_be_sent_says_nothing_of_the_rate(tmp_path: Path) -> None:
    uplink = Uplink(tmp_path / "uplink.json")
    uplink.note(0, 0.5)
    assert uplink.bytes_per_second() is None

"""What members say of their premium is published and may hold a release back; it weighs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest

from gobelin.server.home import AggregatorHome, ReleaseSettings
from gobelin.server.ledger import RoundLedger
from gobelin.server.publisher import Publisher
from gobelin.server.seal import _counted
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.premium import premium_report, why_held
from gobelin.shared.settings import write_settings
from tests.server.ledger.witness import ca, verify


def row(member: str, premium: float | None = None, measure: str = "probe") -> dict[str, Any]:
    told = {} if premium is None else {f"premium_{measure}": premium, "premium_seen": 0.5}
    return {"member": member, "metrics": told}


def test_a_members_nodes_are_one_voice_and_measures_do_not_mix() -> None:
    rows = [row("a", 1.0), row("a", 3.0), row("b", -4.0), row("c", 9.0, "identification")]
    report = premium_report([*rows, row("d")])
    probe, identification = report.by
    assert (report.of, report.told) == (4, 3)
    assert (probe.members, probe.mean, probe.least) == ({"a": 2.0, "b": -4.0}, -1.0, -4.0)
    assert (identification.mean, identification.seen) == (9.0, 0.5)
    assert premium_report([]).told == 0


@pytest.mark.parametrize(
    ("premiums", "least", "share", "why"),
    [
        ([2.0, 3.0, 4.0], 2.0, 0.5, ""),
        ([2.0, 3.0, -100.0], 2.0, 0.5, ""),  # one member alone neither shuts the gate
        ([0.0, 1.0, 100.0], 2.0, 0.5, "median premium is +1.0 points"),  # nor opens it
        ([2.0, None, None], 2.0, 0.5, "1 of 3 members told their premium, 50% must"),
        ([None, None, None], -100.0, 0.1, "0 of 3 members"),
    ],
)
def test_the_gate_is_the_median_of_enough_members(
    premiums: list[float | None], least: float, share: float, why: str
) -> None:
    rows = [row(member, told) for member, told in zip("abc", premiums, strict=True)]
    found = why_held(premium_report(rows), least, share)
    assert why in found
    assert bool(found) == bool(why)


def facts_with(facts: Mapping[str, Any], premium: float) -> dict[str, Any]:
    told = {"premium_probe": premium, "premium_seen": 0.4}
    rows = [{**each, "metrics": {**each["metrics"], **told}} for each in facts["contributions"]]
    return {**facts, "contributions": rows}


def test_a_release_is_held_back_until_the_premium_is_there(home: AggregatorHome) -> None:
    gate = ReleaseSettings(least_premium=2.0)
    write_settings(home.settings_file, home.settings().model_copy(update={"releases": gate}))
    for folder in home.releases.glob("release-*"):
        shutil.rmtree(folder)
    ledger = RoundLedger(home, lambda *_: None)
    ledger.mend()
    events: list[tuple[str, Mapping[str, Any]]] = []
    publisher = Publisher(home, ledger, lambda kind, facts: events.append((kind, facts)))
    sealed = [read_checkpoint(home.round_folder(number)) for number in (1, 2, 3, 4)]

    def release(number: int, premium: float) -> list[str]:
        checkpoint = sealed[number - 1]
        publisher.release(number, checkpoint.vector, facts_with(checkpoint.facts, premium))
        return sorted(path.name for path in home.releases.glob("release-*"))

    assert release(1, 9.0) == []  # not due: every second round is
    assert release(2, 1.0) == []
    ((kind, told),) = events
    assert (kind, told["round"]) == ("release_held", 2)
    assert "median premium is +1.0 points of a linear probe, at least +2.0" in told["why"]
    assert release(3, 2.5) == ["release-00003"]  # overdue, and the gate is open
    assert verify(home.releases / "release-00003", "--key", ca(home))["round"] == 3
    card = (home.releases / "release-00003" / "model_card.md").read_text()
    assert "As reported by 2 of 2 members" in card
    assert "| of a linear probe | 2 | +2.5 | +2.5 | +2.5 | 40% |" in card
    assert release(4, 3.0) == ["release-00003", "release-00004"]


def test_no_weight_follows_from_a_reported_premium(home: AggregatorHome) -> None:
    facts = read_checkpoint(home.round_folder(4)).facts
    for plain, boasting in zip(
        facts["contributions"], facts_with(facts, 100.0)["contributions"], strict=True
    ):
        assert _counted(plain, 0.5) == _counted(boasting, 0.5)  # all that weights come from

"""The site policy wins over any plan: what it forbids is refused, or stays here."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from gobelin.client.egress import clear
from gobelin.client.egress_report import print_policy
from gobelin.client.home import NodeHome
from gobelin.client.site_policy import SitePolicy, judge, read_policy, require
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import ConfigError, EgressError, SitePolicyError, StateError
from gobelin.shared.settings import parse_settings
from tests.client.contributing import BASE, Node, home_at, plan

NOON = datetime.datetime(2026, 5, 1, 12, 0, 30)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return home_at(tmp_path)


def verdicts(policy: SitePolicy, **changes: Any) -> dict[str, str]:
    found = judge(policy, plan(1, BASE, **changes), NOON)
    return {finding.rule: finding.verdict for finding in found}


def test_without_a_policy_all_is_allowed(home: NodeHome) -> None:
    assert read_policy(home) == SitePolicy()
    assert set(verdicts(SitePolicy(), cross_node=True).values()) == {"allowed"}


@pytest.mark.parametrize(
    ("given", "rule", "verdict"),
    [
        ({"min_sealed_members": 5}, "min_sealed_members", "refused"),
        ({"max_epsilon": 8.0}, "max_epsilon", "refused"),
        ({"codecs": ["int4", "topk"]}, "codecs", "narrowed"),
        ({"codecs": ["fp32"]}, "codecs", "allowed"),
        ({"moments": False}, "moments", "narrowed"),
        ({"metrics": False}, "metrics", "narrowed"),
        ({"hours": "11:00-13:00"}, "hours", "allowed"),
        ({"hours": "12:00-12:01"}, "hours", "allowed"),
        ({"hours": "12:01-11:00"}, "hours", "narrowed"),  # opens before the deadline
        ({"hours": "20:00-06:00"}, "hours", "refused"),
    ],
)
def test_each_rule_has_its_verdict(given: dict[str, Any], rule: str, verdict: str) -> None:
    found = verdicts(SitePolicy.model_validate(given), cross_node=True)
    assert found.pop(rule) == verdict
    assert set(found.values()) == {"allowed"}


def test_a_codec_that_may_not_leave_is_refused_where_the_plan_has_no_coarser_one() -> None:
    only_fine = SitePolicy(codecs=["fp32"])
    assert verdicts(only_fine, codec="int4")["codecs"] == "refused"
    with pytest.raises(SitePolicyError, match="codecs: only fp32 may leave"):
        require(only_fine, plan(1, BASE, codec="int4"), NOON)


@pytest.mark.parametrize(
    ("hours", "at", "opens_in"),
    [
        ("20:00-06:00", (12, 0, 30), 8 * 3600 - 30),
        ("20:00-06:00", (23, 59, 0), 0),
        ("20:00-06:00", (5, 59, 59), 0),
        ("20:00-06:00", (6, 0, 0), 14 * 3600),
        ("09:00-17:00", (17, 0, 0), 16 * 3600),
        ("00:00-00:00", (3, 0, 0), 0),
        (None, (3, 0, 0), 0),
    ],
)
def test_hours_may_pass_midnight(
    hours: str | None, at: tuple[int, int, int], opens_in: float
) -> None:
    assert SitePolicy(hours=hours).opens_in(datetime.datetime(2026, 5, 1, *at)) == opens_in


@pytest.mark.parametrize(
    "text", ['hours = "6-9"', 'hours = "25:00-26:00"', "codecs = []", "min_sealed_members = 1",
             "moment = false", "max_mb_per_day = 0"],
)  # fmt: skip
def test_a_policy_that_is_none_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_settings(SitePolicy, text, "policy.toml")


def write(home: NodeHome, **policy: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in policy.items()]
    home.policy_file.write_text("\n".join(lines))


def test_a_plan_that_is_refused_trains_nothing(home: NodeHome) -> None:
    write(home, min_sealed_members=5)
    node = Node(home)
    with pytest.raises(SitePolicyError, match="round 1: min_sealed_members"):
        node(plan(1, BASE), BASE)
    assert not node.statuses
    home.policy_file.unlink()  # read again for every plan
    assert node(plan(1, BASE), BASE).contribution.round == 1


def test_what_is_narrowed_stays_here(home: NodeHome) -> None:
    write(home, metrics=False, moments=False, codecs=["int8", "int4"])
    done = Node(home)(plan(1, BASE, cross_node=True), BASE)
    assert set(done.contribution.metrics) == {"sent_bytes", "distortion"}
    assert (done.contribution.codec, done.moments) == ("int8", b"")
    clear(done, read_policy(home))


def test_a_day_that_is_spent_leaves_a_coarser_codec_or_nothing(home: NodeHome) -> None:
    size = 4 * BASE.schema.size
    write(home, max_mb_per_day=size / 2e6)
    assert Node(home)(plan(1, BASE), BASE).contribution.codec == "bf16"
    write(home, max_mb_per_day=1e-6)
    with pytest.raises(SitePolicyError, match="MB leave a day"):
        Node(home)(plan(2, BASE), BASE)


@pytest.mark.parametrize(
    ("policy", "keeps"),
    [
        ({"metrics": False}, "figures of training"),
        ({"moments": False}, "moments"),
        ({"codecs": ["int4"]}, "fp32 deltas"),
        ({"min_sealed_members": 3}, "open contributions"),
        ({"max_epsilon": 1.0}, "without privacy"),
    ],
)
def test_what_was_spooled_under_another_policy_does_not_leave(
    policy: dict[str, Any], keeps: str, home: NodeHome
) -> None:
    done = Node(home)(plan(1, BASE, cross_node=True), BASE)
    clear(done, SitePolicy())
    with pytest.raises(SitePolicyError, match=keeps):
        clear(done, SitePolicy.model_validate(policy))


def test_what_is_not_as_its_header_says_does_not_leave(home: NodeHome) -> None:
    done = Node(home)(plan(1, BASE), BASE)
    other = dataclasses.replace(done.contribution, delta_digest="0" * 64)
    with pytest.raises(EgressError, match="not the one its header names"):
        clear(dataclasses.replace(done, contribution=other), SitePolicy())
    with pytest.raises(EgressError, match="moments"):
        clear(dataclasses.replace(done, moments=b"more"), SitePolicy())
    more = dataclasses.replace(done.contribution, metrics={"patients": 3.0})
    with pytest.raises(EgressError, match="more than is declared"):
        clear(dataclasses.replace(done, contribution=more), SitePolicy())


def test_explain_says_of_the_last_plan_or_a_given_one_what_is_refused(
    home: NodeHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StateError, match="no plan has been offered"):
        print_policy(home, None, False)
    asked: RoundPlan = plan(3, BASE, cross_node=True)
    home.plan_file.write_bytes(asked.to_bytes())
    write(home, min_sealed_members=5, moments=False)
    print_policy(home, None, False)
    told = capsys.readouterr().out
    assert "refused   min_sealed_members" in told
    assert "narrowed  moments" in told
    assert told.endswith("It would be refused.\n")
    home.policy_file.unlink()
    file = tmp_path / "plan.json"
    file.write_bytes(asked.to_bytes())
    print_policy(home, file, True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["round"], facts["refused"]) == (3, False)
    file.write_text("{}")
    with pytest.raises(ConfigError, match="holds no round plan"):
        print_policy(home, file, True)

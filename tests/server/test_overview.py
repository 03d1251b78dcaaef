"""The overview says what a home holds, and its alerts say what an operator has to know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gobelin.server.alerts import SILENT_S, Severity, ago, alerts_of
from gobelin.server.contacts import PATIENCE, read_contacts
from gobelin.server.details import member_detail, node_detail, round_detail
from gobelin.server.home import AggregatorHome
from gobelin.server.observer import Observer
from gobelin.server.overview import DiskView, NodeView, OpenView, Overview, ProcessView
from gobelin.shared.errors import ConfigError
from gobelin.shared.ledger import LedgerFolder, influence_of
from gobelin.shared.locks import sole_owner
from tests.pages.homes import beat, grow, run_home

NODES = ("library", "museum", "school")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorHome]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_home(tmp_path_factory.mktemp("overview"), patch).home


@pytest.fixture(scope="module")
def seen(home: AggregatorHome) -> Overview:
    """The home as of a moment when the aggregator ran and all nodes beat."""
    beat(home, dict.fromkeys(NODES, 3.0))
    with sole_owner(home.folder):
        return Observer(home).look()


def codes(overview: Overview) -> list[str]:
    return [str(alert.code) for alert in alerts_of(overview)]


def test_an_overview_says_what_the_sealed_rounds_record(
    home: AggregatorHome, seen: Overview
) -> None:
    assert (seen.sealed, seen.rounds, seen.running) == (3, 40, True)
    assert [point.round for point in seen.history] == [1, 2, 3]
    facts = home.facts(3)
    last = seen.history[-1]
    assert last.digest == home.manifest(3)["vector_digest"]
    assert (last.cosine, last.retained) == (facts["cosine"], facts["retained_norm"])
    assert last.sent == sum(row["bytes"] for row in facts["contributions"])
    assert last.loss == 1.0
    assert seen.ledger is not None
    assert seen.ledger.size == 4
    assert [release.round for release in seen.releases] == [2]


def test_members_influence_is_the_ledger_s(home: AggregatorHome, seen: Overview) -> None:
    history = LedgerFolder(home.ledger).read()
    told = influence_of((one.entry for one in history.entries), 3, {})
    for member in seen.members:
        assert member.influence_total == pytest.approx(told[member.name]["influence"])
        assert member.share == pytest.approx(told[member.name]["share"])
        assert member.contributed == told[member.name]["counted"] == 3
    assert sum(member.share for member in seen.members) == pytest.approx(1)


def test_the_open_round_says_who_is_in_and_who_is_awaited(seen: Overview) -> None:
    assert seen.open is not None
    assert (seen.open.round, seen.open.phase, seen.open.needed) == (4, "collecting", 3)
    assert len(seen.open.nodes) == 1
    assert {*seen.open.nodes, *seen.open.owing} == {*NODES}
    assert {node.name: node.state for node in seen.nodes} == {
        name: "in" if name in seen.open.nodes else "awaited" for name in NODES
    }


def test_a_second_look_finds_what_was_sealed_since(home: AggregatorHome, tmp_path: Path) -> None:
    shutil.copytree(home.folder, tmp_path / "home")
    other = AggregatorHome(tmp_path / "home")
    observer = Observer(other)
    assert observer.look().sealed == 3
    shutil.rmtree(other.journal)
    grow(other, 6, 4)
    fresh, again = Observer(other).look(), observer.look()
    assert (again.sealed, len(again.history), len(again.members)) == (6, 6, 4)
    assert replace(again, at=0.0, clock_ahead=0.0, disk=fresh.disk, alerts=()) == replace(
        fresh, at=0.0, clock_ahead=0.0, alerts=()
    )


def test_all_of_it_is_json(seen: Overview) -> None:
    told = json.loads(json.dumps(seen.facts(), allow_nan=False))
    assert sorted(told["nodes"]) == sorted(NODES)
    assert told["sigreg_floor"] == pytest.approx(1.0594, abs=1e-4)
    assert len(told["history"]) == 3


def test_details_repeat_the_record_and_the_ledger_s_leaf(home: AggregatorHome) -> None:
    observer = Observer(home)
    detail = round_detail(observer, 3)
    rows = {row["node"]: row for row in home.facts(3)["contributions"]}
    assert {row.node for row in detail.contributions} == set(rows)
    for row in detail.contributions:
        assert (row.weight, row.delta_digest) == (
            rows[row.node]["weight"],
            rows[row.node]["delta_digest"],
        )
        assert row.leaf is not None
    entry = LedgerFolder(home.ledger).entry(3)
    assert entry is not None
    assert {row.leaf.root for row in detail.contributions if row.leaf} == {
        entry.entry.record.contributions_root
    }
    assert member_detail(observer, "museum").rounds[-1] == 3
    assert node_detail(observer, "museum").rounds == (1, 2, 3)
    for ask in (lambda: round_detail(observer, 9), lambda: node_detail(observer, "nobody")):
        with pytest.raises(ConfigError):
            ask()


def test_who_only_looks_needs_no_tensors() -> None:
    look = "import sys, gobelin.server.page.server, gobelin.server.status; "
    look += "sys.exit('torch' in sys.modules or 'flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


# ---------------------------------------------------------------- heartbeats


def test_a_node_is_seen_when_it_last_beat(home: AggregatorHome) -> None:
    now = time.time()
    beat(home, {"library": 2.0, "museum": 77.0}, now)
    found = read_contacts(home.flower / "link.db")
    assert found is not None
    ids = {node.name: node.id for node in home.roster().nodes}
    assert found[ids["library"]].seen == pytest.approx(now - 2)
    assert found[ids["museum"]].seen == pytest.approx(now - 77)
    assert ids["school"] not in found


def test_heartbeats_are_read_as_flower_writes_them() -> None:
    from flwr.common import constant
    from flwr.supercore.state.schema.linkstate_models import Node

    assert PATIENCE == constant.HEARTBEAT_PATIENCE
    columns = {column.name for column in Node.__table__.columns}
    assert {"public_key", "last_activated_at", "online_until", "heartbeat_interval"} <= columns
    assert Node.__tablename__ == "node"


def test_a_link_that_is_none_is_no_error(tmp_path: Path) -> None:
    assert read_contacts(tmp_path / "link.db") is None
    (tmp_path / "link.db").write_bytes(b"rubbish" * 100)
    assert read_contacts(tmp_path / "link.db") is None


# ---------------------------------------------------------------- alerts


def with_node(of: Overview, name: str, **changes: object) -> Overview:
    nodes = (replace(n, **changes) if n.name == name else n for n in of.nodes)  # type: ignore[arg-type]
    return replace(of, nodes=tuple(nodes))


def awaited(of: Overview) -> str:
    assert of.open is not None
    return of.open.owing[0]


def test_when_all_is_well_nothing_is_said(seen: Overview) -> None:
    assert codes(seen) == []


def test_a_silent_node_that_is_awaited_is_a_warning_and_says_since_when(seen: Overview) -> None:
    name = awaited(seen)
    of = with_node(seen, name, seen=seen.at - SILENT_S - 1)
    told = {str(alert.code): alert for alert in alerts_of(of)}
    assert told["node_silent"].severity is Severity.WARNING
    assert told["node_silent"].what.endswith("was last seen 31 s ago; round 4 waits for it")
    assert told["quorum_impossible"].severity is Severity.CRITICAL  # all three are needed
    assert codes(with_node(seen, name, seen=seen.at - SILENT_S + 1)) == []


def test_a_round_that_waits_longer_than_rounds_do_is_told(seen: Overview) -> None:
    assert seen.open is not None
    of = replace(seen, open=replace(seen.open, opened=seen.at - 240.0))
    (alert,) = alerts_of(of)
    assert (str(alert.code), alert.where) == ("round_stuck", "round 4")
    assert alert.what.startswith("round 4 has waited 4 min for ")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"running": False}, "not_running"),
        ({"failure": "round 4 had too few contributions"}, "failed"),
        ({"processes": (ProcessView("superlink", False, 0.0),)}, "process_down"),
        ({"processes": (ProcessView("superlink", True, 0.0, 4),)}, "process_restarts"),
        ({"disk": DiskView(10**8, 10**12, 10**7)}, "disk_full"),
        ({"clock_ahead": 300.0}, "clock"),
        ({"waiting": ("west",)}, "enrolment_waits"),
        ({"releases": ()}, "release_overdue"),
    ],
)
def test_what_is_wrong_is_told(seen: Overview, changes: dict[str, object], code: str) -> None:
    of = replace(seen, at=seen.at + 61, **changes)  # type: ignore[arg-type]
    assert code in codes(of)
    assert code not in codes(seen)


def test_a_collapse_and_a_broken_release_are_critical(seen: Overview) -> None:
    last = replace(seen.history[-1], rank=1.2)
    broken = replace(seen.releases[0], verified="broken", found="a flipped bit")
    of = replace(seen, history=[*seen.history[:-1], last], releases=(broken,))
    told = {str(alert.code): alert.severity for alert in alerts_of(of)}
    assert told == {"collapse": Severity.CRITICAL, "release_broken": Severity.CRITICAL}


node_views = st.builds(
    NodeView,
    name=st.sampled_from(["a", "b", "c"]),
    id=st.just("id"),
    member=st.sampled_from(["x", "y"]),
    role=st.sampled_from(["contributor", "observer"]),
    seen=st.none() | st.floats(0, 2e9),
    state=st.sampled_from(["", "in", "awaited", "refused"]),
)
open_views = st.builds(
    OpenView,
    round=st.integers(1, 99),
    phase=st.sampled_from(["open", "collecting", "void", "closed"]),
    attempt=st.integers(1, 3),
    opened=st.none() | st.floats(0, 2e9),
    deadline=st.none() | st.floats(0, 2e9),
    needed=st.integers(1, 4),
    owing=st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple),
)


@given(st.lists(node_views, max_size=3), st.none() | open_views, st.floats(0, 2e9), st.booleans())
def test_alerts_of_any_overview_say_what_and_what_next(
    nodes: list[NodeView], opened: OpenView | None, at: float, running: bool
) -> None:
    of = Overview(
        at=at, federation="fed", running=running, address="", service_address="", rounds=9,
        sealed=0, release_every=10, reference_batch=64, open=opened, members=(),
        nodes=tuple(nodes), history=[], releases=(), ledger=None, waiting=(), processes=(),
        disk=DiskView(1 << 40, 1 << 41, 1),
    )  # fmt: skip
    found = alerts_of(of)
    assert all(alert.what and alert.command for alert in found)
    order = [list(Severity).index(alert.severity) for alert in found]
    assert order == sorted(order)
    if not running:
        assert not {"round_stuck", "node_silent"} & {str(alert.code) for alert in found}


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (119, "119 s"), (130, "2 min"), (7300, "2 h"), (2e5, "2 d")]
)
def test_ages_are_told_in_one_unit(seconds: float, said: str) -> None:
    assert ago(seconds) == said

"""What Prometheus is told is what the overview says, by names and labels that hold for ever."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import SubjectAlternativeName as NAMES
from cryptography.x509 import load_pem_x509_certificate as certificate
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from gobelin.client import metrics as node_metrics
from gobelin.server import metrics
from gobelin.server.alerts import Code, Severity, alerts_of
from gobelin.server.cli import app
from gobelin.server.founding import Charter, found
from gobelin.server.home import AggregatorHome
from gobelin.server.observer import Observer
from gobelin.server.overview import (
    DiskView,
    HeadView,
    MemberView,
    NodeView,
    OpenView,
    Overview,
    ProcessView,
    RefusedView,
    ReleaseView,
    RoundPoint,
)
from gobelin.server.page.curves import curves_of
from gobelin.server.page.inspector import Inspector
from gobelin.server.page.server import make_page
from gobelin.shared.event_files import points_of, read_points, write_points
from gobelin.shared.keys import renew_server_certificate
from gobelin.shared.metrics import Exporter, metrics_app, table
from gobelin.shared.resident import resident_bytes

NOW = 1_800_000_000.0
NAME = re.compile(r"gobelin_(aggregator|node)_[a-z0-9]+(_[a-z0-9]+)*")
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_degrees", "_info")
NOT_BASE = ("_ms", "_minutes", "_hours", "_mb", "_kb", "_percentage")
CANARY = "CANARY7f3a91"


def overview() -> Overview:
    """A federation of two members in trouble, with every figure there is."""
    words = "loss loss_least loss_most prediction probe rank sigreg distortion premium cosine"
    figures = dict.fromkeys(f"{words} sign_most sign_all retained rotation".split(), 0.5)
    point = RoundPoint(4, "d" * 64, 2, 1, 1, 0, 900, 1200, 10.0, 2.0, NOW - 70, NOW - 60, **figures)
    north = NodeView(
        *("north-1", "a" * 64, "north", "contributor", NOW - 5, NOW - 500, "in", 4, 1, 0),
        *({}, 600, 700, 40.0, 4, 50, "int8", 300, 0.01, 0.5),
    )
    refused = {"magnitude": 2, f"unknown {CANARY}": 1}
    south = NodeView(
        *("south-1", "b" * 64, "south", "contributor", NOW - 90, NOW - 500, "awaited"),
        *(3, 0, 1, refused, 300, 400, 30.0, 3),
    )
    one = Overview(
        at=NOW,
        federation="fed",
        running=True,
        address="host:1",
        service_address="host:2",
        rounds=9,
        sealed=4,
        release_every=2,
        reference_batch=128,
        open=OpenView(
            *(5, "collecting", 2, NOW - 100, NOW + 100, 2, ("north",), ("north-1",), ()),
            owing=("south-1",),
            refused=(RefusedView("south-1", "magnitude", CANARY),),
            says=f"waiting for {CANARY}",
        ),
        members=(
            MemberView("north", ("north-1",), 0.75, 3.0, 0.6),
            MemberView("south", ("south-1",), 0.25, 2.0, 0.4, ("cap",), 0.7),
        ),
        nodes=(north, south),
        history=[point],
        releases=(
            ReleaseView("release-00004", 4, NOW - 50, NOW + 1e6, 5000, "d" * 64, "holds", "", 1.5),
            ReleaseView("release-00002", 2, NOW - 90, NOW + 1e6, 5000, "e" * 64, "broken", CANARY),
        ),
        ledger=HeadView(5, "f" * 64, ("north-1",), 5),
        waiting=("west-1",),
        processes=(ProcessView("superlink", True, NOW - 500, 3, 1 << 20),),
        disk=DiskView(1 << 28, 1 << 40, 1 << 20),
        certificate_expires=NOW + 86_400,
        clock_ahead=120.0,
        failure=f"it failed at /data/{CANARY}",
        last_event={"event": "refused", "found": CANARY},
    )
    return replace(one, alerts=alerts_of(one))


def text_of(seen: Overview) -> str:
    return Exporter(metrics.FAMILIES, metrics.labels_of).text(seen).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By name and labels, without that of the federation."""
    return {
        (sample.name, frozenset(sample.labels.items()) - {("federation", "fed")}): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[f"gobelin_aggregator_{name}", frozenset(labels.items())]


def test_figures_are_those_of_the_overview() -> None:
    text, south = text_of(overview()), {"member": "south", "node": "south-1"}
    assert value(text, "round") == 5
    assert value(text, "round_attempt") == 2
    assert value(text, "round_open_seconds") == 100
    assert value(text, "rounds", state="planned") == 4
    assert value(text, "round_phase", phase="collecting") == 1
    assert value(text, "round_phase", phase="open") == 0
    assert value(text, "round_nodes", state="refused") == 1
    assert value(text, "round_nodes", state="awaited") == 0
    assert value(text, "node_last_seen_timestamp_seconds", **south) == NOW - 90
    assert value(text, "node_online", **south) == 0
    assert value(text, "node_online", member="north", node="north-1") == 1
    assert value(text, "node_refused_total", **south, reason="magnitude") == 2
    assert value(text, "node_refused_total", **south, reason="other") == 1
    assert value(text, "member_influence_ratio", member="south") == 0.25
    assert value(text, "last_round_sign_agreement_ratio", share="all") == 0.5
    assert value(text, "process_resident_memory_bytes", process="superlink") == 1 << 20
    assert value(text, "releases", verified="broken") == 1
    assert value(text, "ledger_head_cosignatures") == 1


def test_status_has_every_figure_that_metrics_are_of() -> None:
    told = overview().facts()
    assert {field.name for field in fields(Overview)} <= told.keys()
    assert told["processes"][0]["memory"] == 1 << 20
    assert told["certificate_expires"] == NOW + 86_400
    assert told["nodes"]["south-1"].keys() == {field.name for field in fields(NodeView)}
    assert told["history"][0].keys() == {field.name for field in fields(RoundPoint)}


def test_what_nobody_measured_has_no_sample() -> None:
    seen = replace(overview(), open=None, history=[], releases=(), ledger=None)
    names = {name for name, _ in samples(text_of(seen))}
    for gone in ("round_attempt", "last_round_loss", "release_round", "ledger_records"):
        assert f"gobelin_aggregator_{gone}" not in names
    assert value(text_of(seen), "round") == 4
    assert value(text_of(seen), "round_phase", phase="sealed") == 1


def test_every_alert_is_told_and_those_that_are_none_are_zero() -> None:
    seen = overview()
    told = samples(text_of(seen))
    alerts = {key: count for key, count in told.items() if key[0] == "gobelin_aggregator_alert"}
    assert sum(alerts.values()) == len(seen.alerts)
    codes = {dict(labels)["code"] for _, labels in alerts}
    assert codes == {str(code) for code in Code}
    found = {"code": "node_silent", "severity": "warning", "where": "south/south-1"}
    assert alerts["gobelin_aggregator_alert", frozenset(found.items())] == 1
    calm = samples(text_of(replace(seen, alerts=())))
    calm = {key: n for key, n in calm.items() if key[0] == "gobelin_aggregator_alert"}
    assert len(calm) == len(Code) * len(Severity)
    assert set(calm.values()) == {0}


def test_labels_are_names_and_codes_of_a_bounded_number_and_nothing_else_is_told() -> None:
    """Names on the roster, processes, phases, codes; no digest, path or free text."""
    text = text_of(overview())
    assert CANARY not in text
    assert "/data" not in text
    assert not re.search(r"[0-9a-f]{16}", text)
    rounds = [re.sub(r" [-+.\de]+$", "", line) for line in text.splitlines()]
    later = replace(overview(), sealed=5, open=replace(overview().open, round=6))  # type: ignore[type-var]
    again = text_of(replace(later, alerts=alerts_of(later)))
    assert [re.sub(r" [-+.\de]+$", "", line) for line in again.splitlines()] == rounds


@pytest.mark.parametrize(
    "family", [*metrics.FAMILIES, *node_metrics.FAMILIES], ids=lambda family: family.name
)
def test_names_follow_prometheus_conventions(family: Any) -> None:
    assert NAME.fullmatch(family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert not family.name.endswith(NOT_BASE)
    assert not family.name.endswith(("_sum", "_count", "_bucket", "_created"))
    assert family.help.endswith(".")
    assert "timestamp" not in family.name or family.name.endswith("_timestamp_seconds")
    for unit in UNITS[:4]:
        bare = family.name.removesuffix("_total").removesuffix("_bytes_per_second")
        assert unit not in bare.removesuffix(unit)
    assert set(family.labels).isdisjoint({"federation", "instance", "job"})


@pytest.mark.parametrize("families", [metrics.FAMILIES, node_metrics.FAMILIES])
def test_no_name_is_there_twice(families: list[Any]) -> None:
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def test_the_manual_has_every_metric_as_it_is() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    assert table(metrics.FAMILIES, metrics.COMMON) in manual
    assert table(node_metrics.FAMILIES, node_metrics.COMMON) in manual


# ---------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> AggregatorHome:
    folder = tmp_path_factory.mktemp("metrics") / "home"
    found(folder, Charter("fed", "toy", "127.0.0.1:9092", rounds={"rounds": 9}))
    return AggregatorHome(folder)


def test_alone_and_beside_the_page_the_same_is_answered(home: AggregatorHome) -> None:
    exporter = Exporter(metrics.FAMILIES, metrics.labels_of)
    alone = metrics_app(exporter, Observer(home).look, {"testserver"}, "")
    beside = make_page(home, {"testserver"}, "", Inspector(home))
    told = [TestClient(one).get("/metrics") for one in (alone, beside)]
    for answer in told:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert value(answer.text, "rounds_sealed_total") == 0
        assert value(answer.text, "alert", code="not_running", severity="critical", where="") == 1
    assert samples(told[0].text).keys() == samples(told[1].text).keys()


def test_a_token_keeps_strangers_out(home: AggregatorHome) -> None:
    exporter = Exporter(metrics.FAMILIES, metrics.labels_of)
    client = TestClient(metrics_app(exporter, Observer(home).look, None, "secret"))
    assert client.get("/metrics").status_code == 401
    shown = {"Authorization": "Bearer secret"}
    assert client.get("/metrics", headers=shown).status_code == 200
    assert client.get("/other", headers=shown).status_code == 404


def test_beyond_loopback_a_token_is_asked_for(home: AggregatorHome) -> None:
    run = CliRunner().invoke(
        app, ["metrics", "--home", str(home.folder), "--host", "0.0.0.0", "--port", "0"]
    )
    assert "name a --token-file" in str(run.exception)


def test_curves_are_written_once(home: AggregatorHome, tmp_path: Path) -> None:
    command = ["tensorboard", "--home", str(home.folder), "--to", str(tmp_path), "--json"]
    told = CliRunner().invoke(app, command)
    assert json.loads(told.output) == {"folder": str(tmp_path), "points": 0}  # no round is sealed
    seen = overview()
    points = list(points_of(curves_of(seen), {4: NOW}))
    assert write_points(tmp_path, points) == len(points) > 15
    assert write_points(tmp_path, points) == 0
    assert {point.tag: point.value for point in read_points(tmp_path)}["loss/mean"] == 0.5


# ---------------------------------------------------------------- what was added for them


def test_a_process_holds_memory_and_one_that_is_gone_none() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 1 << 20
    assert resident_bytes(2**22 + 1) is None


def test_the_servers_certificate_is_told_of_and_renewed(tmp_path: Path) -> None:
    found(tmp_path / "home", Charter("fed", "toy", "127.0.0.1:0"))
    home = AggregatorHome(tmp_path / "home")
    before = (home.tls / "server.pem").read_bytes()
    ends = Observer(home).look().certificate_expires
    assert ends is not None
    late = Observer(home, lambda: ends - 86_400).look()
    assert Code.CERTIFICATE_EXPIRES in {alert.code for alert in late.alerts}
    early = Observer(home, lambda: ends - 86_400 * 60).look()
    assert Code.CERTIFICATE_EXPIRES not in {alert.code for alert in early.alerts}
    assert renew_server_certificate(home.tls).timestamp() >= ends
    assert (home.tls / "server.pem").read_bytes() != before
    old, new = (certificate(data) for data in (before, (home.tls / "server.pem").read_bytes()))
    assert new.public_key() == old.public_key()
    assert new.issuer == old.issuer
    assert new.extensions.get_extension_for_class(NAMES).value == (
        old.extensions.get_extension_for_class(NAMES).value
    )
    new.verify_directly_issued_by(home.ca())

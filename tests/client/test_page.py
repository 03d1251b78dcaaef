"""The node's page: read-only, for who may, the same figures as status, and live."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from gobelin.client.cli import app
from gobelin.client.egress_ledger import Departure, EgressLedger
from gobelin.client.home import NodeHome
from gobelin.client.observer import Observer
from gobelin.client.page.curves import curves_of
from gobelin.client.page.server import make_page, news_of
from gobelin.shared.pages import live
from tests.client.lived_in import lived_in

HOST = "127.0.0.1"
URL = f"http://{HOST}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return lived_in(tmp_path_factory.mktemp("lived"))


@pytest.fixture(scope="module")
def client(home: NodeHome) -> TestClient:
    return opened(home)


def opened(home: NodeHome) -> TestClient:
    """Its page, once the home has been read."""
    client = TestClient(make_page(home, {HOST}), base_url=URL)
    assert client.get("/overview.json").status_code == 200
    return client


def test_the_page_shows_what_status_tells(home: NodeHome, client: TestClient) -> None:
    page = client.get("/").text
    of = Observer(home).look()
    assert of.premium is not None
    assert of.premium.points is not None
    assert f"{of.premium.points:+.1f}" in page
    assert "has seen 128,000 of 384,000 samples" in page
    assert len(re.findall(r'<span class="pill good">counted</span>', page)) == of.counted == 10
    assert all(f'<th scope="row">{name}</th>' in page for name in ("deltas", "sessions", "other"))
    told = client.get("/overview.json").json()
    assert told["left"] == json.loads(json.dumps(of.facts()))["left"]


def test_no_sample_label_or_path_is_on_it(home: NodeHome, client: TestClient) -> None:
    told = client.get("/").text + client.get("/overview.json").text
    for secret in (str(home.settings().data.path), str(home.folder), home.key_file.read_text()):
        assert secret not in told


def test_while_the_home_is_read_a_person_is_told_so_and_a_program_waits(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_look, look = threading.Event(), Observer.look

    def slowly(self: Observer) -> Any:
        assert may_look.wait(60)
        return look(self)

    monkeypatch.setattr(Observer, "look", slowly)
    monkeypatch.setattr(live, "FIRST_S", 0.01)
    with TestClient(make_page(home, {HOST}), base_url=URL) as client:
        told = client.get("/", headers={"accept": "text/html"})
        assert (told.status_code, told.headers["refresh"]) == (503, "1")
        assert "Reading the home" in told.text
        assert client.get("/").json()["error"] == "page.reading"
        may_look.set()
        assert client.get("/overview.json").json()["node"] == home.settings().node
        assert "Reading the home" not in client.get("/", headers={"accept": "text/html"}).text


def test_nothing_can_be_changed(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/").status_code == 405
        assert client.request(method, "/overview.json").status_code == 405


def test_other_names_and_pages_of_others_get_nothing(home: NodeHome) -> None:
    page = make_page(home, {HOST})
    assert TestClient(page, base_url="http://evil.example").get("/").status_code == 421
    policy = TestClient(page, base_url=URL).get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy


def test_a_token_is_asked_for_where_there_is_one(home: NodeHome) -> None:
    token = "t" * 40
    with TestClient(make_page(home, None, token), base_url="http://node.example") as client:
        assert client.get("/overview.json").status_code == 401
        bearer = {"Authorization": f"Bearer {token}"}
        assert client.get("/overview.json", headers=bearer).status_code == 200


def test_it_listens_beyond_loopback_with_a_token_alone(home: NodeHome) -> None:
    told = ["page", "--home", str(home.folder), "--host", "0.0.0.0", "--port", "0"]
    failed = CliRunner().invoke(app, told)
    assert failed.exit_code != 0
    assert "--token-file" in str(failed.exception)


def test_curves_leave_gaps_where_this_node_was_away(home: NodeHome) -> None:
    charts = {chart.key: chart for chart in curves_of(Observer(home).look())}
    assert set(charts) == {"egress", "weights", "premium", "quality"}
    assert list(charts["weights"].rounds) == list(range(1, 13))
    (weights,) = charts["weights"].lines
    assert [number for number, value in enumerate(weights.values, 1) if value is None] == [5, 12]
    assert charts["premium"].x_label == "samples"


def test_a_refused_contribution_is_told_with_its_remedy(tmp_path: Path) -> None:
    home = lived_in(tmp_path, 3, shadow=False)
    ledger = EgressLedger(home.egress_file)
    ledger.left(ledger.leaving(Departure("answer", code="gobelin:budget")), 90, {"PushMessages": 1})
    page = opened(home).get("/").text
    assert "The last plan was not answered: budget." in page
    assert "raise max_mb_per_round" in page
    assert "All is calm" not in page


def test_a_step_is_news_and_a_busy_machine_is_none(home: NodeHome) -> None:
    of = Observer(home).look()
    busy = dataclasses.replace(of.machine, load=99.0, memory=1)
    assert news_of(dataclasses.replace(of, at=of.at + 5, machine=busy)) == news_of(of)
    step = dataclasses.replace(of.status, step=of.status.step + 1)
    assert news_of(dataclasses.replace(of, status=step)) != news_of(of)

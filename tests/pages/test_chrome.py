"""What all pages share: vendored files, templates, charts, tokens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tomllib
from importlib import resources

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.pages import live
from gobelin.shared.pages.app import FILES, page_app, require_token_beyond_loopback
from gobelin.shared.pages.charts import MOST, ROWS, Chart, Line, pick
from gobelin.shared.pages.templates import lasting, number, render, size

TOKEN = "t" * 40
HOSTS = {"127.0.0.1", "testserver"}
HTML = {"accept": "text/html"}


def test_what_others_made_is_what_their_packages_have() -> None:
    vendor = resources.files("gobelin.shared.pages").joinpath("static/vendor")
    files = tomllib.loads(vendor.joinpath("vendor.toml").read_text())["file"]
    for file in files:
        data = vendor.joinpath(file["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"], file["name"]
        assert vendor.joinpath(file["licence_file"]).read_text().strip()
    told = {file["name"] for file in files} | {file["licence_file"] for file in files}
    assert told | {"vendor.toml"} == {entry.name for entry in vendor.iterdir()}


def test_all_static_files_are_served_and_no_other() -> None:
    client = TestClient(page_app("fed", HOSTS))
    for name in FILES:
        assert client.get(f"/static/{name}").status_code == 200
    for name in ("vendor.toml", "../app.py", "%2e%2e%2fapp.py"):
        assert client.get(f"/static/{name}").status_code == 404


def test_nothing_foreign_and_nothing_inline_is_allowed() -> None:
    answer = TestClient(page_app("fed", HOSTS)).get("/nowhere", headers=HTML)
    assert answer.status_code == 404
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in answer.text
    assert answer.text.count("<script") == answer.text.count("<script src=") + answer.text.count(
        "<script defer src="
    )


def test_who_bears_no_token_is_asked_for_it_and_told_nothing() -> None:
    app = page_app("fed", HOSTS, TOKEN)

    @app.get("/secret")
    def secret() -> str:
        return "the secret"

    client = TestClient(app, follow_redirects=False)
    page = client.get("/secret", headers=HTML)
    assert (page.status_code, "secret" in page.text) == (401, False)
    assert client.get("/secret").json()["remedy"].startswith("send it as Authorization")
    assert client.post("/login", data={"token": "x" * 40}).status_code == 401
    assert client.get("/secret").status_code == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/secret", headers=bearer).json() == "the secret"
    entered = client.post("/login", data={"token": TOKEN})
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert client.get("/secret").json() == "the secret"  # by the cookie


def test_a_page_without_a_token_is_never_for_everybody() -> None:
    require_token_beyond_loopback("127.0.0.1", "")
    require_token_beyond_loopback("0.0.0.0", TOKEN)
    with pytest.raises(ConfigError, match="could read this page"):
        require_token_beyond_loopback("0.0.0.0", "")


def test_a_foreign_name_reaches_nothing() -> None:
    client = TestClient(page_app("fed", {"127.0.0.1"}), base_url="http://evil.example")
    assert client.get("/").status_code == 421


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=2500))
def test_a_long_curve_keeps_its_ends_and_what_sticks_out(values: list[float | None]) -> None:
    kept = pick([values], len(values))
    assert len(kept) <= MOST
    assert kept == sorted(set(kept))
    assert {kept[0], kept[-1]} == {0, len(values) - 1}
    known = [value for value in values if value is not None]
    if known and len(values) > MOST:
        shown = [values[i] for i in kept if values[i] is not None]
        inner = [v for v in values[1:-1] if v is not None] or known
        assert max(shown) >= max(inner)  # type: ignore[type-var]
        assert min(shown) <= min(inner)  # type: ignore[type-var]


def test_a_chart_has_data_in_json_and_a_table() -> None:
    rounds = list(range(1, 1001))
    line = Line('"><b>', [float("nan"), *[1.0 / r for r in rounds[1:]]])
    chart = Chart("loss", "Loss", "it falls", rounds, [line])
    told = json.loads(chart.data)
    assert told["lines"][0]["label"] == '"><b>'
    assert told["lines"][0]["values"][0] is None
    assert len(told["x"]) <= MOST
    assert len(chart.table) <= ROWS + 1
    assert (chart.table[0][0], chart.table[-1][0]) == (1, 1000)
    page = render("gobelin.shared.pages:templates/error.html.j2", title="t", error="e", what="<b>",
                  remedy="", code="")  # fmt: skip
    assert "&lt;b&gt;" in page


def test_numbers_are_told_as_people_read_them() -> None:
    assert [size(n) for n in (None, 12, 2_817_024, 4.2e9)] == ["–", "12 B", "2.82 MB", "4.2 GB"]
    assert [lasting(s) for s in (0.44, 59, 200, 7500, 360_000)] == [
        "0.4 s",
        "59 s",
        "3 min 20 s",
        "2 h 5 min",
        "4 d 4 h",
    ]
    assert [number(v) for v in (None, 3, 0.17635, 12345.0)] == ["–", "3", "0.176", "12,345"]


def test_a_watcher_looks_again_after_a_home_that_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator who saves federation.toml half-way must not end what open pages are told."""
    looks = list[int]()

    def look() -> int:
        looks.append(len(looks))
        if len(looks) == 1:
            raise StateError("half a file", "write the other half")
        watcher._streams = 0  # the last page is closed
        return len(looks)

    monkeypatch.setattr(live, "EVERY_S", 0.0)
    watcher = live.Watcher(look, lambda seen: seen)
    watcher._streams = 1
    asyncio.run(watcher._watch())
    assert (looks, watcher.version) == ([0, 1], 1)

"""The aggregator's page in a real browser: what it shows, to everybody, and that it asks nobody."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from gobelin.server.home import AggregatorHome
from gobelin.server.page import inspection
from gobelin.server.page.inspector import Inspector
from gobelin.server.page.server import make_page
from gobelin.shared.http_server import trusted_hosts
from gobelin.shared.locks import sole_owner
from tests.pages.homes import beat, run_home

CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "a-token-of-forty-characters-and-no-spaces"
NODES = ("library", "museum", "school")
PATHS = ("/", "/rounds", "/rounds/3", "/rounds/3/contributions/museum/3", "/members")
PATHS += ("/members/museum", "/nowhere")
BARS = frozenset({"serious", "critical"})

pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there")


class Seen(Inspector):
    """Looks into no release: that takes a process of its own, and is tested for itself."""

    def look(self, names: Any) -> None:
        self.verdicts = dict.fromkeys(names, ("holds", ""))


@contextlib.contextmanager
def served(home: AggregatorHome, token: str = "") -> Iterator[str]:
    app = make_page(home, trusted_hosts("127.0.0.1"), token, Seen(home))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        httpx.get(f"{url}/overview.json", headers=bearer, timeout=120, trust_env=False)
        yield url
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AggregatorHome]:
    with pytest.MonkeyPatch.context() as patch:
        made = run_home(tmp_path_factory.mktemp("browser"), patch).home
    beat(made, dict.fromkeys(NODES, 3.0))
    with sole_owner(made.folder):
        yield made


@pytest.fixture(scope="module")
def url(home: AggregatorHome) -> Iterator[str]:
    with served(home) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@contextlib.contextmanager
def opened(chromium: Any, width: int = 1280, scheme: str = "light", **more: Any) -> Iterator[Any]:
    """A page that may reach loopback alone, and must not complain."""
    size = {"width": width, "height": 844}
    context = chromium.new_context(viewport=size, color_scheme=scheme, **more)
    page = context.new_page()
    foreign, said = [], []
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))

    def judge(route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "data:")):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    page.route("**/*", judge)
    yield page
    context.close()
    assert not foreign
    assert not [line for line in said if "status of 4" not in line]  # a page that is not there


def test_the_first_page_says_how_it_stands_and_draws_its_curves(chromium: Any, url: str) -> None:
    with opened(chromium) as page:
        page.goto(url)
        page.wait_for_selector("#link.good")
        assert "All is calm" in page.inner_text("#alerts")
        assert "3" in page.inner_text("#standing .tile dd")
        for name in NODES:
            assert name in page.inner_text("#nodes")
        page.wait_for_selector("#chart-loss canvas")
        page.locator("#chart-contributions").scroll_into_view_if_needed()
        page.wait_for_selector("#chart-contributions canvas")
        page.wait_for_selector("#releases >> text=holds")  # another process looks into it
        page.click("#recent-rounds a:text('round 3')")
        page.click("a:has-text('museum')")
        assert "museum in round 3" in page.inner_text("h1")
        assert "leaf" in page.inner_text("main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anybody_and_a_phone_need_not_scroll_sideways(
    chromium: Any, url: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    with opened(chromium, 390, scheme, bypass_csp=True) as page:  # axe is put in by hand
        for path in PATHS:
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
            for wrong in Axe().run(page).response["violations"]:
                if wrong["impact"] in BARS:
                    found.append((path, wrong["id"], [n["html"] for n in wrong["nodes"]][:3]))
    assert not found


def test_a_keyboard_is_enough(chromium: Any, url: str) -> None:
    with opened(chromium) as page:
        page.goto(url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.focus("#theme")
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.keyboard.press("Enter")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.focus("#chart-loss summary")
        page.keyboard.press("Enter")
        assert page.is_visible("#chart-loss table")


def test_without_scripts_all_of_it_is_there(chromium: Any, url: str) -> None:
    with opened(chromium, java_script_enabled=False) as page:
        page.goto(url)
        page.click("#chart-loss summary")
        assert page.is_visible("#chart-loss table")
        assert "UTC" in page.inner_text("#nodes time >> nth=0")
        page.click("nav >> text=Rounds")
        assert "round 3" in page.inner_text("#rounds")


def test_a_silent_node_shows_without_anybody_asking(
    chromium: Any, url: str, home: AggregatorHome
) -> None:
    with opened(chromium) as page:
        page.goto(url)
        page.wait_for_selector("#link.good")
        page.locator("#chart-loss summary").click()
        try:
            beat(home, {"library": 2.0, "museum": 2.0, "school": 90.0})
            page.wait_for_selector("#alerts li:has-text('school')", timeout=60_000)
            page.wait_for_selector("#nodes tr:has-text('school') >> text=silent")
            page.wait_for_selector("#announced:not(:empty)", state="attached")
            assert page.is_visible("#chart-loss table")  # what was opened stays open
        finally:
            beat(home, dict.fromkeys(NODES, 3.0))


def test_who_has_the_token_reads_the_page_and_nobody_else(
    chromium: Any, home: AggregatorHome
) -> None:
    with served(home, TOKEN) as address, opened(chromium) as page:
        page.goto(address)
        assert "library" not in page.content()
        page.fill("#token", "wrong")
        page.click("text=Open the page")
        assert "This is not the token" in page.inner_text("main")
        page.fill("#token", TOKEN)
        page.click("text=Open the page")
        page.wait_for_selector("#link.good")  # the events, too, by the cookie
        assert "library" in page.inner_text("#nodes")


def inspected(home: AggregatorHome, patch: pytest.MonkeyPatch, capsys: Any) -> list[Any]:
    """What the inspection of the home's release prints, without a process of its own."""
    patch.setattr("sys.argv", ["inspection", str(home.folder), "release-00002"])
    inspection.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_release_is_found_to_hold_or_to_be_broken(
    home: AggregatorHome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    try:
        holds, cloud = inspected(home, monkeypatch, capsys)
        assert (holds["verified"], holds["found"]) == ("holds", "")
        assert cloud["points"] == []  # no public samples were named
        shutil.copytree(home.folder, tmp_path / "home")
        with (tmp_path / "home/releases/release-00002/model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x01")
        broken, _ = inspected(AggregatorHome(tmp_path / "home"), monkeypatch, capsys)
        assert broken["verified"] == "broken"
        assert str(tmp_path) not in broken["found"]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_an_inspector_has_it_done_by_another_process(home: AggregatorHome) -> None:
    inspector = Inspector(home)
    inspector.look(["release-00002"])
    give_up = time.monotonic() + 250
    while inspector.map is None and time.monotonic() < give_up:
        time.sleep(0.2)
    assert inspector.verdicts == {"release-00002": ("holds", "")}

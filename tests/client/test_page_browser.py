"""The node's page in a real browser: drawn, live, fit for a phone, and nothing from elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gobelin.client.egress_ledger import Departure, EgressLedger
from gobelin.client.home import NodeHome
from gobelin.shared.locks import sole_owner
from tests.client.lived_in import DELTA, lived_in

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]
PATIENCE_MS = 180_000
BARS = frozenset({"serious", "critical"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return lived_in(tmp_path_factory.mktemp("lived"), start=time.time() - 12 * 600)


@pytest.fixture(scope="module")
def url(home: NodeHome) -> Iterator[str]:
    import uvicorn

    from gobelin.client.page.server import make_page
    from gobelin.shared.http_server import listen, url_of

    with sole_owner(home.folder), listen("127.0.0.1", 0) as listening:
        app = make_page(home, {"127.0.0.1"})
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        answering = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        answering.start()
        url = url_of("127.0.0.1", listening)
        httpx.get(f"{url}/overview.json", timeout=120, trust_env=False)  # the home has been read
        yield url
        server.should_exit = server.force_exit = True
        answering.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"], "timeout": PATIENCE_MS}
        chromium = started.chromium.launch(**options)
        yield chromium
        chromium.close()


def opened(browser: Any, url: str, **how: Any) -> tuple[Any, list[str], list[str]]:
    """The page, what its console complained of, and what it asked for."""
    page = browser.new_page(**how)
    page.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(".uplot canvas")
    return page, said, asked


def test_curves_are_drawn_and_nothing_comes_from_elsewhere(browser: Any, url: str) -> None:
    page, said, asked = opened(browser, url)
    assert page.locator("figure.chart").count() == 4
    assert said == []
    assert all(address.startswith((url, "data:")) for address in asked)
    page.wait_for_selector("#link:text-is('live')")
    page.close()


def test_what_leaves_appears_without_a_reload(browser: Any, url: str, home: NodeHome) -> None:
    page, said, _ = opened(browser, url)
    page.wait_for_selector("#link:text-is('live')")
    ledger = EgressLedger(home.egress_file)
    gone = Departure("contribution", round=13, codec="int4", digest="d", payload_bytes=DELTA)
    ledger.left(ledger.leaving(gone), DELTA + 6000, {"PushMessages": 1})
    page.wait_for_selector("#rounds tbody tr:nth-child(1) >> text=13")
    page.wait_for_selector("figure.chart canvas")  # drawn again, of what has come
    assert said == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, url: str, scheme: str) -> None:
    size = {"width": 390, "height": 800}
    page, said, _ = opened(browser, url, viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert said == []
    page.close()


def test_the_keyboard_reaches_everything(browser: Any, url: str, tmp_path: Path) -> None:
    page, _, _ = opened(browser, url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    named = page.evaluate(
        "[...document.querySelectorAll('[tabindex=\"0\"], section')]"
        ".every(e => e.ariaLabel || e.getAttribute('aria-labelledby') || e.querySelector('h2'))"
    )
    assert named
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_anybody(browser: Any, url: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _, _ = opened(browser, url, color_scheme=scheme, bypass_csp=True)  # axe is put in by hand
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], rule["impact"]) for rule in found if rule["impact"] in BARS] == []
    page.close()

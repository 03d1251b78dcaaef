"""The aggregator's page with 1,000 rounds of 50 members: how soon it is there, and what it takes.

First paint is the browser's own (first contentful paint) of a page opened anew. The home has the
real files' format; its figures are made up (tests/pages/homes.py).
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.measure import spread, write_result
from bench.pages import browser, served
from gobelin.server.home import AggregatorHome
from tests.pages.homes import beat, grow, run_home

FOLDER = Path("runs/dashboard")
GOAL = "first paint ≤ 1 s, ≤ 150 MB, no visible stall"
TASKS = """() => new Promise(done => {
  const found = [];
  new PerformanceObserver(list => found.push(...list.getEntries().map(e => e.duration)))
    .observe({type: "longtask", buffered: true});
  setTimeout(() => done(found), 300);
})"""
PAINTS = "performance.getEntriesByName('first-contentful-paint')"


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--home", type=Path, help="one that was made before")
    options = parser.parse_args()
    home = AggregatorHome(options.home) if options.home else made(options.rounds, options.members)
    figures = measure(home, options.times)
    overview = {"rounds": home.sealed_rounds()[-1], "members": len(home.roster().members)}
    path = write_result("dashboard", {**overview, **figures, "goal": GOAL})
    print(path.read_text())


def made(rounds: int, members: int) -> AggregatorHome:
    """A home of so many sealed rounds."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    patch = pytest.MonkeyPatch()
    fed = run_home(FOLDER, patch, rounds=rounds + 200)
    shutil.rmtree(fed.home.journal, ignore_errors=True)
    grow(fed.home, rounds, members)
    return fed.home


def measure(home: AggregatorHome, times: int) -> dict[str, Any]:
    """Seconds to the first paint, memory of page and tab, and the longest task of the tab."""
    paints, tasks, tabs, heaps, updates = [], [], [], [], []
    names = [node.name for node in home.roster().nodes]
    beat(home, dict.fromkeys(names, 3.0))
    started = time.monotonic()
    with served(home.folder) as (url, process), browser() as chromium:
        server = psutil.Process(process.pid)
        first = chromium.new_page()
        first.goto(url, timeout=180_000)
        answered = time.monotonic() - started  # at least that the home is being read
        first.wait_for_selector("#link", timeout=180_000)
        ready = time.monotonic() - started
        first.close()
        for _ in range(times):
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(url, wait_until="load")
            page.wait_for_selector("#link.good")
            page.wait_for_function(f"() => {PAINTS}.length")  # it may be live before it is painted
            paints.append(page.evaluate(f"{PAINTS}[0].startTime") / 1000)
            for _ in range(6):  # down the page, where charts are drawn
                page.mouse.wheel(0, 900)
                page.wait_for_timeout(150)
            version = page.get_attribute("#nodes", "data-stamp")
            before = time.monotonic()
            beat(home, dict.fromkeys(names[1:], 2.0))  # one is heard of no more
            page.wait_for_function(
                "v => document.querySelector('#nodes').dataset.stamp !== v", arg=version
            )
            updates.append(time.monotonic() - before)
            tasks.append(max([0.0, *page.evaluate(TASKS)]) / 1000)
            session = context.new_cdp_session(page)
            session.send("Performance.enable")
            told = {
                m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]
            }
            heaps.append(told["JSHeapUsedSize"] / 1e6)
            tabs.append(tab_mb())
            context.close()
            beat(home, dict.fromkeys(names, 3.0))
        memory = server.memory_info().rss / 1e6
    return {
        "first_paint_s": spread(paints),
        "longest_task_s": spread(tasks),
        "update_s": spread(updates),
        "server_mb": memory,
        "tab_mb": spread(tabs),
        "heap_mb": spread(heaps),
        "memory_mb": max([memory, *tabs]),
        "answered_s": answered,
        "cold_s": ready,
        "times": times,
    }


def tab_mb() -> float:
    """What the tab's process holds for itself alone (unique set size), MB."""
    renderers = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in child.cmdline():
                renderers.append(child.memory_full_info().uss / 1e6)
        except psutil.Error:
            continue
    return max(renderers, default=0.0)


if __name__ == "__main__":
    main()

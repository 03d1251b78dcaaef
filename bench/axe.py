"""axe-core on every page of the aggregator, light and dark, wide and narrow: what bars people."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from bench.measure import write_result
from bench.pages import browser, served
from tests.pages.homes import beat, run_home

FOLDER = Path("runs/axe")
GOAL = "0 serious violations"
PATHS = (
    "/", "/rounds", "/rounds/3", "/rounds/3/contributions/museum/3", "/members",
    "/members/museum", "/nowhere",
)  # fmt: skip
SIZES = {"wide": 1280, "phone": 390}


def main() -> None:
    """Look at every page and write what was found."""
    from axe_playwright_python.sync_playwright import Axe

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    home = run_home(FOLDER, pytest.MonkeyPatch()).home
    beat(home, {"library": 3.0, "museum": 100.0})  # one is silent, one was never seen
    found: Counter[str] = Counter()
    pages, passes, rules = 0, 0, ""
    with served(home.folder) as (url, _), browser() as chromium:
        chromium.new_page().goto(url + "/overview.json", timeout=120_000)  # the home has been read
        for scheme in ("light", "dark"):
            for width in SIZES.values():
                context = chromium.new_context(
                    viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True
                )
                page = context.new_page()
                for path in PATHS:
                    page.goto(url + path, timeout=120_000)
                    told = Axe().run(page).response
                    rules, pages = told["testEngine"]["version"], pages + 1
                    passes += len(told["passes"])
                    for wrong in told["violations"]:
                        found[wrong["impact"]] += 1
                        print(path, scheme, width, wrong["impact"], wrong["id"], flush=True)
                context.close()
    serious = found["serious"] + found["critical"]
    values = {"serious": serious, "violations": dict(found), "pages": len(PATHS), "looks": pages}
    written = write_result(
        "axe", {**values, "rules_passed": passes, "axe_core": rules, "goal": GOAL}
    )
    print(written.read_text())


if __name__ == "__main__":
    main()

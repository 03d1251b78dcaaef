"""What the manual claims can be looked up: tests it names, figures it takes from the results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/explanation/*.md"), ROOT / "SECURITY.md"])
FIGURE = re.compile(r"[+−-]?\d+\.\d+ ± \d+\.\d+")


@pytest.fixture(scope="module")
def named() -> set[str]:
    """The names of all tests."""
    return {
        name
        for file in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path, named: set[str]) -> None:
    text = page.read_text()
    claimed = set(re.findall(r"`(test_\w+)`", text))
    assert claimed <= named, claimed - named
    if page.name == "threats.md":
        rows = [line for line in text.splitlines() if re.match(r"\| T\d+ \|", line)]
        assert [row.split("|")[1].strip() for row in rows] == [f"T{n}" for n in range(1, 19)]
        assert all("`test_" in row for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_figure_with_a_spread_is_one_of_the_results(page: Path) -> None:
    results = (ROOT / "docs" / "results.md").read_text().replace("−", "-")
    known = {figure.lstrip("+-") for figure in FIGURE.findall(results)}
    told = {figure.lstrip("+-−") for figure in FIGURE.findall(page.read_text())}
    assert told <= known, told - known

"""The page of results: sections of results that are there anew, the others kept."""

from __future__ import annotations

import pytest

from bench.tables import HEAD, PAGE, page, sections, tables


def test_a_section_whose_result_is_elsewhere_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "bench.tables.tables",
        lambda: {name: (lambda values: f"## {values['title']}\n") for name in ("a", "b", "c")},
    )
    first = page({"c": {"title": "C"}, "a": {"title": "A"}}, "")
    assert first == f"{HEAD}\n<!-- a -->\n## A\n\n<!-- c -->\n## C\n"
    second = page({"b": {"title": "B"}, "a": {"title": "A again"}}, first)
    assert second == (f"{HEAD}\n<!-- a -->\n## A again\n\n<!-- b -->\n## B\n\n<!-- c -->\n## C\n")
    assert page({}, second) == second


def test_every_section_of_the_page_is_of_a_result_that_has_a_table() -> None:
    text = PAGE.read_text()
    told = sections(text)
    assert told.keys() <= tables().keys()
    assert text.count("\n## ") == len(told)

"""Markdown of results: figures with their spread, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping

PROBES = {"tokens": "tokens", "pooled": "pooled", "knn": "kNN", "few_shot": "10-shot"}


def figure(value: Mapping[str, float] | None, digits: int = 1, signed: bool = False) -> str:
    """mean ± sd as written, or a dash."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    return f"{value['mean']:{sign}.{digits}f} ± {value['sd']:.{digits}f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rule, *rows]) + "\n"

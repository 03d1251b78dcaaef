"""What the code's own comments say of a class's fields: the one place where it is written."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Sequence
from functools import cache


@cache
def field_comments(kind: type) -> dict[str, str]:
    """Field → the comment behind it, else the one that stands above it.

    Of a class and of those it inherits from; a field that only narrows another keeps its comment.
    """
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if "__annotations__" in base.__dict__ and base.__module__.startswith("gobelin."):
            own = _of_source(textwrap.dedent(inspect.getsource(base)))
            told |= {name: text for name, text in own.items() if text or name not in told}
    return told


def _of_source(source: str) -> dict[str, str]:
    lines = {
        token.start[0]: (token.string.lstrip("# ").strip(), token.line.strip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field in body.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        last = field.end_lineno or field.lineno
        behind = [lines[n][0] for n in range(field.lineno, last + 1) if n in lines]
        if behind:  # and what goes on below it, indented alike, is a comment of the next
            found[field.target.id] = " ".join(behind)
            continue
        above, number = list[str](), field.lineno - 1
        while number in lines and lines[number][1]:
            above.insert(0, lines[number][0])
            number -= 1
        found[field.target.id] = " ".join(above)
    return found


def one_line(text: str | None) -> str:
    """Text as it stands in a cell of a table."""
    words = " ".join((text or "").split())
    return words.replace("|", "\\|").replace("<", "&lt;")


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; columns in which nothing stands are left out."""
    kept = [n for n in range(len(heads)) if n == 0 or any(row[n] for row in rows)]
    lines = [[heads[n] for n in kept], ["---"] * len(kept)]
    lines += [[row[n] for n in kept] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"

"""Every error an operator can meet, and every remedy that the code offers with it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gobelin.client
import gobelin.server
import gobelin.shared
import gobelin.simulation
from gobelin.shared.errors import GobelinError
from manual.comments import one_line, table

HEAD = """# Errors

An error is one line, `gobelin: [code] what was found → how to mend it`, with an exit code of its
family; `--json` makes it an object with `error`, `what`, `remedy` and `exit_code`. There is no
traceback for anything that an operator can mend. 0 is success, 2 a command line that is none, 130
Ctrl-C.

Codes of what an aggregator refuses or counts for less are [reason codes](../reasons.md).

"""
ROOMS = (gobelin.shared, gobelin.server, gobelin.client, gobelin.simulation)


def kinds() -> list[type[GobelinError]]:
    """All classes of errors, by exit code and code."""
    for room in ROOMS:
        _import_errors(room)
    found: list[type[GobelinError]] = []
    waiting: list[type[GobelinError]] = [GobelinError]
    while waiting:
        below = waiting.pop().__subclasses__()
        found += [kind for kind in below if kind.__module__.startswith("gobelin.")]
        waiting += below
    return sorted(found, key=lambda kind: (kind.exit_code, kind.code))


def page() -> str:
    """The page of errors: a table, then what may be done about each."""
    rows = [
        (f"{k.exit_code}", f"[`{k.code}`](#{_anchor(k)})", one_line(k.__doc__)) for k in kinds()
    ]
    parts = [HEAD, table(("exit code", "code", "meaning"), rows), "## What may be done\n\n"]
    for kind in kinds():
        told = [(one_line(what), one_line(remedy)) for what, remedy in raised(kind.__name__)]
        usual = f" Where nothing nearer is said: {one_line(kind.usual)}." if kind.usual else ""
        parts.append(f"### `{kind.code}` {{ #{_anchor(kind)} }}\n\n")
        parts.append(f"{one_line(kind.__doc__)}{usual}\n\n")
        parts.append(table(("found", "how to mend it"), told) if told else "")
    return "".join(parts)


def _anchor(kind: type[GobelinError]) -> str:
    return kind.code.replace(".", "-").replace("_", "-")


def raised(name: str) -> list[tuple[str, str]]:
    """What is said where a class of error is made in the code: (what, remedy), `…` is filled in."""
    return [(what, remedy) for kind, what, remedy in _all_raised() if kind == name]


@cache
def _trees() -> list[tuple[Path, ast.Module]]:
    files = (
        f for room in ROOMS for path in room.__path__ for f in sorted(Path(path).rglob("*.py"))
    )
    return [(file, ast.parse(file.read_text())) for file in files]


def all_made() -> Iterator[tuple[Path, ast.Call]]:
    """Every error that the code makes, with the file it is made in."""
    for file, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id.endswith("Error") and node.args:
                yield file, node


@cache
def _all_raised() -> list[tuple[str, str, str]]:
    """(class, what, remedy) of every error made with a remedy that is text."""
    given = {file: _given(tree) for file, tree in _trees()}
    found = []
    for file, made in all_made():
        keywords = {keyword.arg: keyword.value for keyword in made.keywords}
        second = made.args[1] if len(made.args) > 1 else keywords.get("remedy")
        what, remedy = (_said(part, given[file]) for part in (made.args[0], second))
        if remedy.strip("… "):
            found.append((made.func.id, what or "…", remedy))  # type: ignore[attr-defined]
    return list(dict.fromkeys(found))


Given = list[tuple[int, str, str]]  # line, name, text


def _given(tree: ast.AST) -> Given:
    """What names are given in a module, one by one or several at once."""
    found: Given = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for part in node.targets:
            pairs = [(part, node.value)]
            if isinstance(part, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(part.elts, node.value.elts, strict=False))
            named = [(name, value) for name, value in pairs if isinstance(name, ast.Name)]
            found += [(node.lineno, name.id, _text(value)) for name, value in named]
    return found


def _said(part: ast.AST | None, given: Given) -> str:
    """A text, or what a name was given last above it."""
    if not isinstance(part, ast.Name):
        return _text(part)
    above = [(line, text) for line, name, text in given if name == part.id and line <= part.lineno]
    return max(above, default=(0, ""))[1]


def _text(node: ast.AST | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""


def _import_errors(room: object) -> None:
    """Import the modules that define errors of their own."""
    for folder in room.__path__:  # type: ignore[attr-defined]
        for found in pkgutil.walk_packages([folder], f"{room.__name__}."):  # type: ignore[attr-defined]
            file = Path(folder, *found.name.split(".")[2:]).with_suffix(".py")
            if file.exists() and "Error(GobelinError)" in file.read_text():
                importlib.import_module(found.name)

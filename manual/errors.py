"""Every error an operator can meet, and every remedy that the code offers with it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
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
        parts.append(f"### `{kind.code}` {{ #{_anchor(kind)} }}\n\n{one_line(kind.__doc__)}\n\n")
        parts.append(table(("found", "how to mend it"), told) if told else "")
    return "".join(parts)


def _anchor(kind: type[GobelinError]) -> str:
    return kind.code.replace(".", "-").replace("_", "-")


def raised(name: str) -> list[tuple[str, str]]:
    """What is said where a class of error is made in the code: (what, remedy), `…` is filled in."""
    return [(what, remedy) for kind, what, remedy in _all_raised() if kind == name]


@cache
def _all_raised() -> list[tuple[str, str, str]]:
    found = [
        made
        for room in ROOMS
        for folder in room.__path__
        for file in sorted(Path(folder).rglob("*.py"))
        for made in _made_in(ast.parse(file.read_text()))
    ]
    return list(dict.fromkeys(found))


def _made_in(tree: ast.AST) -> list[tuple[str, str, str]]:
    """(class, what, remedy) of every error made in a module with a remedy that is text."""
    names = {
        target.id: text
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and (text := _text(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if not node.func.id.endswith("Error") or not node.args:
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        given = node.args[1] if len(node.args) > 1 else keywords.get("remedy")
        what, remedy = (
            names.get(part.id, "") if isinstance(part, ast.Name) else _text(part)
            for part in (node.args[0], given)
        )
        if remedy.strip("… "):
            found.append((node.func.id, what or "…", remedy))
    return found


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

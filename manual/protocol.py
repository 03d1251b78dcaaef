"""What crosses a boundary: our service's .proto, and the dataclasses of protocols/."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import gobelin.protocols.messages
from manual.comments import field_comments, one_line, table

PROTO = Path(gobelin.protocols.messages.__file__).parent / "federation.proto"
MODULES = ("messages", "envelope", "bundle", "ledger", "enrolment", "sealing")
HEAD = """# Protocol

Rounds travel through Flower's Fleet API as the messages below, packed into its records; enrolment,
roster and releases through a gRPC service of our own. Each message has one canonical byte form and
a digest over it. Every other kind of request is refused.

"""
FIELD = re.compile(
    r"^  (?P<type>[\w. ]+?) (?P<name>\w+) = (?P<number>\d+);\s*(?://\s*(?P<told>.*))?$"
)
RPC = re.compile(r"^  rpc (?P<name>\w+)\((?P<asks>\w+)\) returns \((?P<gets>[\w ]+)\);\s*$")


def page() -> str:
    """The page of the protocol."""
    parts = [HEAD, "## The service `gobelin.v1.Federation`\n\n", _proto(PROTO.read_text())]
    for name in MODULES:
        module = importlib.import_module(f"gobelin.protocols.{name}")
        parts.append(f"## `protocols/{name}`\n\n{_prose(module.__doc__)}\n\n")
        parts += [_dataclass(kind) for kind in _dataclasses(module)]
    return "".join(parts)


def _dataclasses(module: Any) -> list[type]:
    found = [k for k in vars(module).values() if inspect.isclass(k) and dataclasses.is_dataclass(k)]
    own = [kind for kind in found if kind.__module__ == module.__name__]
    return sorted(own, key=lambda kind: inspect.getsourcelines(kind)[1])


def _dataclass(kind: type) -> str:
    comments = field_comments(kind)
    rows = [
        (f"`{f.name}`", one_line(f"`{f.type}`".replace("|", "or")), one_line(comments.get(f.name)))
        for f in dataclasses.fields(kind)
    ]
    return f"### {kind.__name__}\n\n{_prose(kind.__doc__)}\n\n" + table(
        ("field", "type", "meaning"), rows
    )


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("<", "&lt;")


def _proto(text: str) -> str:
    """Calls and messages of a .proto, with the comments above them."""
    calls: list[tuple[str, ...]] = []
    parts: list[str] = []
    above: list[str] = []
    message, fields = "", list[tuple[str, ...]]()
    for line in text.splitlines():
        if comment := re.match(r"^\s*// ?(.*)$", line):
            above.append(comment[1])
            continue
        if rpc := RPC.match(line):
            calls.append(
                (f"`{rpc['name']}`", f"`{rpc['asks']}`", f"`{rpc['gets']}`", " ".join(above))
            )
        elif opened := re.match(r"^(?:message|enum) (\w+) \{(\})?", line):
            message, fields = opened[1], []
            told = one_line(" ".join(above))
            parts.append(f"### {message}\n\n{told}\n\n")
            message = "" if opened[2] else message
        elif (field := FIELD.match(line)) and message:
            row = (
                field["number"],
                f"`{field['name']}`",
                f"`{field['type']}`",
                one_line(field["told"]),
            )
            fields.append(row)
        elif (value := re.match(r"^  (\w+) = (\d+);\s*(?://\s*(.*))?$", line)) and message:
            fields.append((value[2], f"`{value[1]}`", "", one_line(value[3])))
        elif line == "}" and message:
            parts.append(table(("number", "field", "type", "meaning"), fields) if fields else "")
            message = ""
        above = []
    return table(("call", "asks with", "is answered by", "meaning"), calls) + "".join(parts)

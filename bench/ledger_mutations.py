"""Every single-field mutation of a ledger must be detected by verifying it.

Of a signed and cosigned ledger in a folder each field of each file is changed, one at a time, in
every way that its kind allows (another digit, a bit, a sign, a letter's case, nothing at all, the
next field's value, gone), and the ledger is verified. One that still holds is missed.

Writes bench/results/ledger_mutations.json.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ledger_verify import write_history
from bench.measure import write_result
from gobelin.shared.errors import GobelinError
from gobelin.shared.files import json_bytes
from gobelin.shared.ledger import LedgerFolder, verify_history
from tests.ledgers import aggregator, history_of

GONE = object()


@dataclass(frozen=True)
class Mutation:
    """A file with one field changed."""

    path: Path
    field: str
    how: str
    data: bytes


def mutations(folder: Path) -> Iterator[Mutation]:
    """Every mutation of every field of every file of a ledger."""
    for path in sorted(folder.rglob("*.json")):
        values = json.loads(path.read_bytes())
        for field in fields_of(values):
            for how, value in changed(read(values, field)):
                data = json_bytes(written(values, field, value))
                if data != path.read_bytes():
                    yield Mutation(path, ".".join(map(str, field)), how, data)
    for path in sorted(folder.rglob("*.jsonl")):
        rows = path.read_bytes().splitlines(True)
        for number, row in enumerate(rows):
            values = json.loads(row)
            for field in fields_of(values):
                for how, value in changed(read(values, field)):
                    other = row_bytes(written(values, field, value))
                    data = b"".join([*rows[:number], other, *rows[number + 1 :]])
                    if other != row:
                        name = ".".join(map(str, (number, *field)))
                        yield Mutation(path, name, how, data)
    for path in sorted(folder.rglob("*.note")):
        lines = path.read_text().split("\n")
        for number, line in enumerate(lines):
            for how, instead in changed_line(line):
                data = "\n".join([*lines[:number], *instead, *lines[number + 1 :]]).encode()
                if data != path.read_bytes():
                    yield Mutation(path, f"line {number}", how, data)


def row_bytes(values: Any) -> bytes:
    """A line of a roster log."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def fields_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the scalars of a JSON value lie."""
    if isinstance(value, dict):
        for key in value:
            yield from fields_of(value[key], (*at, key))
    elif isinstance(value, list):
        for key, item in enumerate(value):
            yield from fields_of(item, (*at, key))
    else:
        yield at


def read(value: Any, field: tuple[Any, ...]) -> Any:
    """The scalar at a place."""
    for key in field:
        value = value[key]
    return value


def written(values: Any, field: tuple[Any, ...], scalar: Any) -> Any:
    """A copy with another scalar at a place."""
    copy = json.loads(json.dumps(values))
    inner = read(copy, field[:-1])
    if scalar is GONE:
        del inner[field[-1]]
    else:
        inner[field[-1]] = scalar
    return copy


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """What a scalar may become."""
    yield "gone", GONE
    yield "null", None
    if isinstance(value, bool):
        yield "the other", not value
    elif isinstance(value, int | float):
        yield "more", value + 1
        yield "less", value - 1
        yield "another type", float(value) if isinstance(value, int) else str(value)
        yield "a little", value + 2**-40 if isinstance(value, float) else -value - 1
    else:
        yield "empty", ""
        yield "longer", f"{value}0"
        yield "a space", f"{value} "
        if value:
            yield "first", chr(ord(value[0]) ^ 1) + value[1:]
            yield "last", value[:-1] + chr(ord(value[-1]) ^ 1)
            yield "case", value.swapcase()
            yield "shorter", value[:-1]
        else:
            yield "something", "0" * 64


def changed_line(line: str) -> Iterator[tuple[str, list[str]]]:
    """What a line of a note may become; a cosignature that is gone is no field that changed."""
    yield "twice", [line, line]
    yield "a space", [f"{line} "]
    yield "longer", [f"{line}0"]
    if not line:
        return
    yield "shorter", [line[:-1]]
    yield "first", [chr(ord(line[0]) ^ 1) + line[1:]]
    if not line.startswith("— "):
        yield "gone", []
        yield "last", [line[:-1] + chr(ord(line[-1]) ^ 1)]
        return
    dash, name, data = line.split(" ")
    yield "name", [f"{dash} {name}x {data}"]
    raw = base64.b64decode(data)
    for place in (0, 4, 11, len(raw) - 1):  # of the key's id, the time, the signature
        bent = bytes([*raw[:place], raw[place] ^ 1, *raw[place + 1 :]])
        yield f"byte {place}", [f"{dash} {name} {base64.b64encode(bent).decode()}"]


def holds(folder: Path) -> bool:
    """Whether a ledger verifies; anything but a typed error is a failure of its own."""
    try:
        verify_history(LedgerFolder(folder / "ledger").read(), aggregator().public)
    except GobelinError:
        return False
    return True


def run(rounds: int, nodes: int, every: int = 1) -> dict[str, Any]:
    """Try every `every`-th mutation of a ledger; counts of those tried and missed, by how."""
    tried, missed = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_history(history_of(rounds, nodes), folder / "ledger")
        if not holds(folder):
            raise ValueError("the ledger does not hold as it was written")
        for number, mutation in enumerate(mutations(folder)):
            if number % every:
                continue
            whole = mutation.path.read_bytes()
            mutation.path.write_bytes(mutation.data)
            tried[mutation.how] += 1
            if holds(folder):
                where = mutation.path.relative_to(folder)
                missed.append(f"{where} {mutation.field}: {mutation.how}")
            mutation.path.write_bytes(whole)
        if not holds(folder):
            raise ValueError("the ledger does not hold any more")
    return {"tried": tried.total(), "missed": len(missed), "which": missed, "how": dict(tried)}


def main() -> None:
    """Try all mutations of a ledger."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=4)
    options = parser.parse_args()
    found = run(options.rounds, options.nodes)
    goal = "all detected: missed 0"
    values = {**found, "rounds": options.rounds, "nodes": options.nodes, "goal": goal}
    print(write_result("ledger_mutations", values))


if __name__ == "__main__":
    main()

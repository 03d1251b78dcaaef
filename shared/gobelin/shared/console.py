"""A terminal with one live line where there is one, plain lines elsewhere, silence for JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class LiveConsole:
    """Base of what an operator watches; a context manager that ends its live line."""

    def __init__(self, as_json: bool, first: str) -> None:
        """`as_json`: show nothing, since standard output is for programs."""
        self._as_json = as_json
        self._console = Console(highlight=False)
        self._live = self._console.status(first)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._as_json:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print one line; what a person is told beside the events."""
        if not self._as_json:
            self._console.print(line, markup=False, soft_wrap=True)

    def show(self, line: str) -> None:
        """Change the live line."""
        self._live.update(line)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: bool = False) -> None:
    """Print rows under heads; all but the first column to the right, unless all are text."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column, head in enumerate(heads):
        table.add_column(head, justify="right" if column and not left else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def tell(facts: Mapping[str, Any], said: str, as_json: bool) -> None:
    """Print facts as JSON, or what is said of them."""
    print(json.dumps(facts, sort_keys=True) if as_json else said)

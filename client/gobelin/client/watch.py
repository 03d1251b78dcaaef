"""`gobelin node watch`: the overview again and again; live on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gobelin.client.home import NodeHome
from gobelin.client.observer import Observer
from gobelin.client.overview import Overview
from gobelin.client.progress import describe
from gobelin.client.status import left_line, machine_line, next_line, premium_line
from gobelin.shared.signals import Stopped, stop_on_signals

SHOWN = 8  # rounds


def watch_node(
    home: NodeHome,
    every: float,
    as_json: bool,
    looks: int | None = None,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a node until stopped, or so many times; where there is no terminal, what has changed."""
    observer, console = Observer(home), console or Console(highlight=False)
    seen, told = 0, ""
    with contextlib.suppress(Stopped), stop_on_signals(), _shown(console, as_json) as live:
        while looks is None or seen < looks:
            sleep(every if seen else 0.0)
            seen += 1
            overview = observer.look()
            if live is not None:
                live.update(view_of(overview), refresh=True)
            elif as_json:
                print(json.dumps(overview.facts(), sort_keys=True), flush=True)
            elif (line := line_of(overview)) != told:
                told = line
                console.print(line, markup=False, soft_wrap=True)


def line_of(of: Overview) -> str:
    """All of it in one line."""
    parts = [describe(of.status) if of.running else "not running", left_line(of)]
    parts += [premium_line(of.premium)] if of.premium else []
    return f"{of.node}: " + "; ".join(parts)


def view_of(of: Overview) -> Group:
    """All of it, for a terminal."""
    state = Text(f"{of.node} of {of.member}", style="bold")
    state.append("  running" if of.running else "  not running", "green" if of.running else "red")
    lines = [state, Text(describe(of.status))]
    lines += [Text("silent: it has told of no step for a minute", "bold red")] * of.silent
    lines += [Text(of.left.broken, "bold red")] * bool(of.left.broken)
    lines += [Text(coming)] if (coming := next_line(of)) else []
    parts: list[Panel | Table | ProgressBar | Text] = [Panel(Group(*lines), box=box.SIMPLE)]
    if of.running and of.status.steps:
        parts.append(ProgressBar(of.status.steps, of.status.step, width=60))
    parts.append(_rounds(of))
    parts.append(Text(left_line(of)))
    parts += [Text(premium_line(of.premium), "cyan")] if of.premium else []
    parts += [
        Text(f"round {each.round} did not count ({each.reason}) → {each.remedy}", "yellow")
        for each in of.rounds[-SHOWN:]
        if each.state == "refused"
    ]
    if of.refusals:
        last = of.refusals[-1]
        parts.append(Text(f"last plan not answered: {last.reason} → {last.remedy}", "yellow"))
    return Group(*parts, Text(machine_line(of), "dim"), Text(of.leaving, "dim"))


def _rounds(of: Overview) -> Table:
    """The last rounds, a row each."""
    table = Table("round", "state", "codec", "payload", "on the wire", "weight", box=box.SIMPLE)
    for each in of.rounds[-SHOWN:]:
        weight = "–" if each.weight is None else f"{each.weight:.3g}"
        sizes = [f"{count:,} B" for count in (sum(each.bytes.values()), each.wire_bytes)]
        table.add_row(str(each.round), each.state, each.codec, *sizes, weight)
    return table


@contextlib.contextmanager
def _shown(console: Console, as_json: bool) -> Iterator[Live | None]:
    """A live view on a terminal, None elsewhere."""
    if as_json or not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        yield live

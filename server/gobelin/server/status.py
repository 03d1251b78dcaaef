"""`gobelin aggregator status`: a view of the overview, for a terminal or as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from gobelin.server.details import member_detail, node_detail, round_detail
from gobelin.server.home import AggregatorHome
from gobelin.server.observer import Observer
from gobelin.server.overview import NodeView, OpenView, Overview, plain
from gobelin.server.progress import describe
from gobelin.shared.codec_name import describe_codec


def print_status(home: AggregatorHome, as_json: bool) -> None:
    """Print where a federation stands, from its files alone."""
    overview = Observer(home).look()
    if as_json:
        print(json.dumps(overview.facts(), sort_keys=True))
        return
    console = Console(highlight=False)
    for line in lines_of(overview):
        console.print(line, markup=False, soft_wrap=True)
    console.print(table_of(overview))
    for line in ends_of(overview):
        console.print(line, markup=False, soft_wrap=True)


def print_detail(
    home: AggregatorHome, number: int | None, node: str, member: str, as_json: bool
) -> None:
    """Print one round, node or member; raises ConfigError where there is none."""
    observer = Observer(home)
    if number is not None:
        found: Any = plain(round_detail(observer, number))
    elif node:
        found = plain(node_detail(observer, node))
    else:
        found = plain(member_detail(observer, member))
    print(json.dumps(found, sort_keys=True, indent=None if as_json else 2))


def lines_of(of: Overview) -> list[str]:
    """What comes first: how it stands, and what needs a person."""
    state = "up" if of.running else "not running"
    lines = [f"{of.federation}: {state}, {of.sealed} of {of.rounds} rounds sealed"]
    lines += [f"{alert.severity}: {alert.what} → {alert.command}" for alert in of.alerts]
    return lines + ([_open(of.open)] if of.open and of.open.phase != "open" else [])


def table_of(of: Overview) -> Table:
    """A row a node."""
    table = Table("member", "node", "last contribution", "sent", "influence: last round", "so far")
    for node in of.nodes:
        member = of.member(node.member)
        shares = (member.influence, member.share) if member else (0.0, 0.0)
        cells = (f"{share:.0%}" for share in shares)
        table.add_row(node.member, node.name, _last(node), _sent(node), *cells)
    return table


def ends_of(of: Overview) -> list[str]:
    """What comes last."""
    lines = []
    if of.waiting:
        names = ", ".join(of.waiting)
        lines.append(f"waiting to be admitted: {names}; see `gobelin aggregator requests`")
    if of.ledger:
        by = ", ".join(of.ledger.cosigned_by) or "nobody yet"
        head = f"head {of.ledger.root[:12]} of {of.ledger.size}"
        lines.append(f"ledger: {head}, cosigned by {by}")
    if told := of.broadcast:
        step = describe_codec(told["codec"], told["bytes"], told["distortion"])
        lines.append(f"the last consensus is told in one step: {step}")
    if of.last_event:
        lines.append(f"last: {describe(dict(of.last_event), of.rounds)}")
    return lines


def _open(opened: OpenView) -> str:
    """One line for the open round."""
    parts = {"not yet": opened.owing, "late": opened.late}
    more = "".join(f"; {what}: {', '.join(names)}" for what, names in parts.items() if names)
    members = f"{len(opened.members)} of {opened.needed} members"
    return f"round {opened.round}: {opened.phase}, {members}{more}"


def _last(node: NodeView) -> str:
    """What a node's last contribution was."""
    if node.last_round is None:
        return "none yet"
    steps = f": {node.local_steps:,} steps" if node.local_steps else ""
    return f"round {node.last_round}{steps}"


def _sent(node: NodeView) -> str:
    """What it weighed on the wire, and what its codec lost."""
    if node.codec is None or node.sent_bytes is None:
        return ""
    return describe_codec(node.codec, node.sent_bytes, node.distortion or 0.0)

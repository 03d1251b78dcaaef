"""Commands of `gobelin aggregator` about who belongs: invites, requests, roster, our service."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gobelin.server.options import DEFAULT_HOME, Home
from gobelin.shared.announce import announce
from gobelin.shared.errors import ConfigError
from gobelin.shared.options import AsJson, AsJsonLines

Who = Annotated[list[str], typer.Argument(help="Fingerprint words, or the node's name.")]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_TTL_S = 90 * 86400


def add_to(app: typer.Typer) -> None:
    """Put these commands into the aggregator's group."""
    for command in (invite, requests, approve, refuse, members, nodes, role, revoke, serve):
        app.command()(command)


def invite(
    member: Annotated[str, typer.Option(help="The institution that is invited.")],
    pre_approved: Annotated[
        bool, typer.Option("--pre-approved", help="Admit whoever shows it, without asking.")
    ] = False,
    ttl: Annotated[str, typer.Option(help="How long it holds: 30m, 24h, 7d.")] = "24h",
    nodes: Annotated[int, typer.Option(min=1, max=1000, help="How many nodes it is for.")] = 1,
    role: Annotated[str, typer.Option(help="contributor or observer.")] = "contributor",
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Print one invite: all that a node needs to join. Hand it over as you would a password."""
    from gobelin.server.enrolment import Desk
    from gobelin.server.places import Places
    from gobelin.server.roster import require_role

    require_role(role)
    made = Desk(Places(home)).invite(member, role, _seconds(ttl), nodes, pre_approved)
    if as_json:
        facts = {"id": made.id, "member": member, "expires": made.expires, "invite": made.text()}
        print(json.dumps(facts))
        return
    print(made.text())


def requests(home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """List the nodes that have shown an invite, with their fingerprint words."""
    from gobelin.server.enrolment import Desk
    from gobelin.server.places import Places

    places = Places(home)
    places.require()
    rows = [
        {
            "node": r.node,
            "member": r.member,
            "state": r.decided,
            "words": r.words,
            "at": r.at if as_json else f"{datetime.fromtimestamp(r.at, UTC):%Y-%m-%d %H:%M} UTC",
        }
        for r in Desk(places).requests()
    ]
    _print(rows, as_json, "no node has shown an invite yet")


def approve(who: Who, home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """Admit a node that waits, once its operator has read you the same words."""
    _decide(home, who, True, "", as_json)


def refuse(
    who: Who,
    reason: Annotated[str, typer.Option(help="What its operator is told.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Refuse a node that waits."""
    _decide(home, who, False, reason, as_json)


def _decide(home: Path, who: list[str], approve: bool, reason: str, as_json: bool) -> None:
    from gobelin.server.enrolment import Desk
    from gobelin.server.places import Places

    places = Places(home)
    places.require()
    decided = Desk(places).decide(" ".join(who), approve, reason)
    if as_json:
        print(json.dumps({"node": decided.node, "member": decided.member, "admitted": approve}))
        return
    what = "Admitted" if approve else "Refused"
    print(f"{what} node {decided.node!r} of member {decided.member!r}: {decided.words}")


def members(home: Home = DEFAULT_HOME, as_json: AsJsonLines = False) -> None:
    """List the members and their nodes."""
    from gobelin.server.places import Places

    places = Places(home)
    places.require()
    roster = places.roster()
    rows = [
        {
            "member": member,
            "nodes": ", ".join(n.name for n in roster.nodes if n.member == member),
            "contributes": any(n.member == member for n in roster.contributors),
        }
        for member in roster.members
    ]
    _print(rows, as_json, "the roster is empty")


def nodes(
    history: Annotated[
        bool, typer.Option("--history", help="Every record of the log instead.")
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """List the nodes on the roster, or how it came to be."""
    from gobelin.server.places import Places
    from gobelin.shared.roster_log import id_of

    places = Places(home)
    places.require()
    log = places.book.log()
    records = [s.record for s in log.records] if history else list(log.current.values())
    rows = [
        {
            "node": r.node,
            "member": r.member,
            "role": r.role,
            "id": id_of(r)[:16],
            **({"index": r.index, "change": r.change, "reason": r.reason} if history else {}),
        }
        for r in records
    ]
    _print(rows, as_json, "the roster is empty")


def role(
    node: Annotated[str, typer.Argument(help="Name of the node.")],
    role: Annotated[str, typer.Argument(help="contributor or observer.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Change what a node takes part in."""
    from gobelin.server.places import Places
    from gobelin.server.roster import require_role

    require_role(role)
    places = Places(home)
    places.require()
    with places.book.change(places.signing_key_file) as change:
        change.assign(node, role)
    print(json.dumps({"node": node, "role": role}) if as_json else f"Node {node!r} is {role}.")


def revoke(
    node: Annotated[str, typer.Argument(help="Name of the node.")] = "",
    member: Annotated[str, typer.Option(help="Or all nodes of this member.")] = "",
    reason: Annotated[str, typer.Option(help="Written into the roster log.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJsonLines = False,
) -> None:
    """Take nodes off the roster; a running aggregator stops asking and hearing them at once."""
    from gobelin.protocols.enrolment import REVOKE
    from gobelin.server.places import Places
    from gobelin.server.roster_book import entry_of

    if bool(node) == bool(member):
        raise ConfigError("name either a node or --member", "see `gobelin aggregator nodes`")
    places = Places(home)
    places.require()
    with places.book.change(places.signing_key_file) as change:
        if node:
            gone = [change.node(node)]
        else:
            all_nodes = [entry_of(record) for record in change.log.current.values()]
            gone = [entry for entry in all_nodes if entry.member == member]
        if not gone:
            raise ConfigError(
                f"no node on the roster is of member {member!r}", "see `gobelin aggregator members`"
            )
        for entry in gone:
            change.make(REVOKE, entry, _ascii(reason))
    for entry in gone:
        told = {"node": entry.name, "member": entry.member, "change": REVOKE}
        print(json.dumps(told) if as_json else f"Revoked node {entry.name!r} of {entry.member!r}.")


def serve(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Run our own service alone: nodes can join while no rounds run. `up` does this as well."""
    import threading

    from gobelin.server.places import Places
    from gobelin.server.service import serve as run
    from gobelin.shared.logs import child_stream, logged
    from gobelin.shared.signals import Stopped, stop_on_signals

    places = Places(home)
    front = places.front()
    logs = logged(front.logs, "json", child_stream(), role="service", federation=front.name)

    def ready(address: str) -> None:
        said = f"nodes can join and leave at {address}, and get releases; no rounds are run"
        then = f"gobelin aggregator invite --home {home} --member NAME"
        announce({"service_address": address}, said, then, as_json)

    with logs, stop_on_signals():
        try:
            run(places, threading.Event(), ready)
        except Stopped:
            return


def _seconds(ttl: str) -> float:
    """Seconds of a length of time such as 24h; raises ConfigError."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", ttl.strip())
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= MAX_TTL_S:
        raise ConfigError(f"{ttl!r} is no length of time", "write 30m, 24h or 7d; 90d at most")
    return seconds


def _ascii(text: str) -> str:
    if not text.isascii():
        raise ConfigError("the reason is not ASCII", "leave out accents and signs")
    return text


def _print(rows: list[dict[str, Any]], as_json: bool, empty: str) -> None:
    """Rows as JSON lines, or as a table."""
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(empty)
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False).print(table)

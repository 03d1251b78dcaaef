"""What an operator sees of the rounds: live on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import starmap
from typing import Any

from rich.console import Console
from rich.table import Table

from gobelin.protocols.messages import METRIC_DISTORTION
from gobelin.server.broadcast import STEP
from gobelin.server.enrolment import Desk
from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.journal import Journal
from gobelin.server.round_events import Convened
from gobelin.server.round_state import Round
from gobelin.server.round_steps import fold
from gobelin.server.rounds import terms_of
from gobelin.shared.address import format_address
from gobelin.shared.codec import describe_codec
from gobelin.shared.console import LiveConsole
from gobelin.shared.files import is_owned
from gobelin.shared.ledger import LedgerFolder
from gobelin.shared.pausing import read_pause


class Progress(LiveConsole):
    """Prints events as they happen; on a terminal a status line says what is awaited."""

    def __init__(self, home: AggregatorHome, as_json: bool) -> None:
        super().__init__(as_json, "starting the engine")
        self._rounds = home.settings().rounds.rounds

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self._as_json:
            print(json.dumps(event, sort_keys=True), flush=True)
            return
        line = describe(event, self._rounds)
        if event["event"] in ("waiting", "round_opened", "round_resumed"):
            self._live.update(line)
        self.say(line)


def describe(event: dict[str, Any], rounds: int) -> str:
    """One line for one event."""
    kind = event["event"]
    number = f"round {event['round']}/{rounds}" if "round" in event else ""
    if kind == "up":
        joining = f", and join at {at}" if (at := event.get("service_address")) else ""
        return f"up: nodes reach the aggregator at {event['address']}{joining}"
    if kind == "round_opened":
        again = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        return f"{number}: opened on base {event['base_digest'][:12]}{again}"
    if kind == "round_resumed":
        kept = ", ".join(event["nodes"]) or "nobody yet"
        return f"{number}: resumed with what is in from {kept}"
    if kind == "lost":
        return f"{number}: what {event['node']} contributed is damaged here; it is asked again"
    if kind == "offered":
        return f"{number}: offered to {', '.join(starmap(_offered, event['nodes'].items()))}"
    if kind in ("contribution", "late"):
        loss = event["metrics"].get("loss", float("nan"))
        rank = event["metrics"].get("effective_rank", float("nan"))
        sent = f"; {_sent(event)}" if _sent(event) else ""
        return (
            f"{number}: {event['node']} contributed {_work(event)} "
            f"(loss {loss:.3f}, effective rank {rank:.1f}{sent})"
        )
    if kind == "refused":
        return f"{number}: refused {event['node']}: {event['reason']} ({event.get('found', '')})"
    if kind == "round_sealed":
        moments = f", moments of {', '.join(event['moments'])}" if event.get("moments") else ""
        retained = event["retained_norm"]
        how = "a sum of masked deltas" if retained is None else f"retained norm {retained:.2f}"
        more = f"{how}{_turned(event)}{moments}"
        return (
            f"{number}: sealed {event['vector_digest'][:12]} in {event['seconds']:.1f} s "
            f"(overhead {event['overhead_s']:.1f} s, {more}){_reduced(event)}"
        )
    if kind == "minority_loss":
        members = ", ".join(f"{m} ({loss:.0%})" for m, loss in sorted(event["members"].items()))
        return f"{number}: warning: {event['rule']} discarded most of what these taught: {members}"
    if kind == "round_void":
        return f"{number}: void, base unchanged: {event['reason']}"
    if kind == "round_lost":
        return f"{number}: lost, base unchanged: {event['reason']}"
    if kind == "sealing":
        return f"{number}: {event['nodes']} nodes have answered {event['phase']}"
    if kind == "sealing_refused":
        where = f"in {event['phase']}"
        return f"{number}: {event['node']} is not in the sum ({where}: {event['reason']})"
    if kind == "cosignature_refused":
        return f"warning: {event['node']} sent a cosignature that is none: {event['found']}"
    if kind == "release":
        lost = event.get("head_points_lost")
        heads = "" if lost is None else f", on which heads of the last lose {lost:.1f} points"
        return f"{number}: released {event['folder']}{heads}"
    if kind == "transplant_unknown":
        return f"warning: what heads lose on this release was not measured: {event['why']}"
    if kind == "damaged":
        return f"damaged: {event['what']}; nodes are sent the whole base instead"
    if kind == "waiting":
        return str(event["reason"])
    if kind == "restore_confirmed":
        return f"restored: {', '.join(sorted(event['nodes']))} know no more than is here"
    if kind == "rolled_back":
        return f"{number}: went back to what round {event['to']} had left: {event['why']}"
    if kind == "paused":
        return f"paused: {event['reason'] or 'no reason given'}; no new round is opened"
    if kind == "finished":
        return f"finished: consensus {event['vector_digest'][:12]} after {event['round']} rounds"
    return " ".join(str(value) for value in event.values())


def _work(row: dict[str, Any]) -> str:
    """What a contribution took; the steps are not in older logs."""
    steps = f"{row['local_steps']:,} steps, " if "local_steps" in row else ""
    late = f", {row['staleness']} rounds late" if row.get("staleness") else ""
    return f"{steps}{row['samples']:,} samples in {row['seconds']:.1f} s{late}"


def _turned(event: dict[str, Any]) -> str:
    """How far the consensus's frame turned against the base's, where it was looked at."""
    turned = event.get("frame_rotation")
    return "" if turned is None else f", frame turned {turned:.1f}°"


def _reduced(event: dict[str, Any]) -> str:
    """Who counted for less than by itself, and why."""
    members = event.get("reduced", {})
    told = (f"{member} ({', '.join(codes)})" for member, codes in sorted(members.items()))
    return f"; reduced: {', '.join(told)}" if members else ""


def _offered(node: str, sent: dict[str, Any]) -> str:
    """What a node was sent as its base."""
    steps = sent["steps"]
    what = "whole base" if steps is None else f"{steps} step{'s' if steps != 1 else ''}"
    return f"{node} ({what}, {sent['bytes'] / 1e6:.3g} MB)"


def _sent(row: dict[str, Any]) -> str:
    """What a contribution weighed on the wire and what its codec lost; nothing in older logs."""
    if "codec" not in row:
        return ""
    return describe_codec(row["codec"], row["bytes"], row["metrics"].get(METRIC_DISTORTION, 0.0))


def _last_sent(row: dict[str, Any]) -> dict[str, Any]:
    """A node's last contribution as plain data, None where there is none."""
    return {
        "last_round": row.get("round"),
        "local_steps": row.get("local_steps"),
        "codec": row.get("codec"),
        "sent_bytes": row.get("bytes"),
        "distortion": row.get("metrics", {}).get(METRIC_DISTORTION),
    }


def _open_round(
    home: AggregatorHome, settings: FederationSettings, sealed: int
) -> dict[str, Any] | None:
    """Where the round behind the last sealed one stands, from its journal alone."""
    match Journal(home.journal).events():
        case [Convened(plan_digest=digest), *_] as events:
            pass
        case _:
            return None
    if home.facts(sealed).get("plan_digest") == digest:  # killed between seal and clearing
        return None
    state = fold(Round(sealed + 1, digest, "", terms_of(settings), since=0.0), events)
    names = {node: seat.name for node, seat in state.seats.items()}
    late = [names[asked.node] for asked in state.counted if asked.round != state.number]
    return {
        "round": state.number,
        "phase": state.phase,
        "attempt": state.attempt,
        "needed": state.needed,
        "members": sorted(state.members),
        "nodes": sorted(names[node] for node in state.answered),
        "late": sorted(late),
        "owing": sorted(names[node] for node in state.seats.keys() - state.answered),
    }


def _newest_head(home: AggregatorHome) -> dict[str, Any] | None:
    """The ledger's newest head, and who has cosigned it; None before the first start."""
    folder = LedgerFolder(home.ledger)
    sizes = folder.sizes()
    signed = folder.head(sizes[-1]) if sizes else None
    if signed is None:
        return None
    names = sorted(line.name for line in signed.lines[1:])
    return {"size": signed.head.size, "root": signed.head.root.hex(), "cosigned_by": names}


def _describe_open(opened: dict[str, Any]) -> str:
    """One line for the open round."""
    parts = {"not yet": opened["owing"], "late": opened["late"]}
    more = "".join(f"; {what}: {', '.join(names)}" for what, names in parts.items() if names)
    members = f"{len(opened['members'])} of {opened['needed']} members"
    return f"round {opened['round']}: {opened['phase']}, {members}{more}"


def print_status(home: AggregatorHome, as_json: bool) -> None:
    """Print where a federation stands, from its files alone."""
    settings = home.settings()
    sealed = home.sealed_rounds()
    events, _ = home.events()
    roster = home.roster()
    last = {row["node"]: row for row in events if row["event"] in ("contribution", "late")}
    opened = _open_round(home, settings, sealed[-1]) if sealed else None
    round_facts = home.facts(sealed[-1]) if sealed else {}
    members = round_facts.get("members", {})
    told, head = round_facts.get(STEP), _newest_head(home)
    waiting = [request.node for request in Desk(home).waiting()]
    facts = {
        "federation": settings.name,
        "running": is_owned(home.folder),
        "address": format_address(settings.network.host, settings.network.port),
        "paused": asdict(paused) if (paused := read_pause(home.folder)) else None,
        "sealed": sealed[-1] if sealed else None,
        "rounds": settings.rounds.rounds,
        "open": opened,
        "members": roster.members,
        "nodes": {
            node.name: {"member": node.member, **_last_sent(last.get(node.name, {}))}
            for node in roster.nodes
        },
        "waiting": waiting,
        "broadcast": told,
        "influence": {
            member: {"round": row.get("influence", 0.0), "total": row["influence_total"]}
            for member, row in members.items()
        },
        "reduced": {m: row["reduced"] for m, row in members.items() if row.get("reduced")},
        "ledger": head,
        "last_event": events[-1] if events else None,
        "releases": sorted(p.name for p in home.releases.glob("release-*")),
    }
    if as_json:
        print(json.dumps(facts, sort_keys=True))
        return
    console = Console(highlight=False)
    state = "up" if facts["running"] else "not running"
    console.print(f"{settings.name}: {state}, {facts['sealed']} of {facts['rounds']} rounds sealed")
    if paused:
        console.print(str(paused), markup=False)
    if opened:
        console.print(_describe_open(opened), markup=False)
    heads = ("member", "node", "last contribution", "sent", "influence: last round", "so far")
    table = Table(*heads)
    whole = sum(row["influence_total"] for row in members.values()) or 1.0
    for node in roster.nodes:
        row = last.get(node.name)
        when = f"round {row['round']}: {_work(row)}" if row else "none yet"
        mine = members.get(node.member, {})
        shares = (mine.get("influence", 0.0), mine.get("influence_total", 0.0) / whole)
        sent = _sent(row) if row else ""
        table.add_row(node.member, node.name, when, sent, *(f"{share:.0%}" for share in shares))
    console.print(table)
    if waiting:
        names = ", ".join(waiting)
        console.print(f"waiting to be admitted: {names}; see `gobelin aggregator requests`")
    if head:
        by = ", ".join(head["cosigned_by"]) or "nobody yet"
        console.print(f"ledger: head {head['root'][:12]} of {head['size']}, cosigned by {by}")
    if told:
        step = describe_codec(told["codec"], told["bytes"], told["distortion"])
        console.print(f"the last consensus is told in one step: {step}")
    if events:
        console.print(f"last: {describe(events[-1], settings.rounds.rounds)}", markup=False)

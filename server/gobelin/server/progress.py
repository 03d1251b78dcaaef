"""What an operator sees of the rounds as they go: live, plain lines, or JSON."""

from __future__ import annotations

import logging
from itertools import starmap
from typing import Any

from gobelin.protocols.messages import METRIC_DISTORTION
from gobelin.server.home import AggregatorHome
from gobelin.shared.codec_name import describe_codec
from gobelin.shared.console import LiveConsole
from gobelin.shared.logs import bind, tell, unbind

LEVELS = {
    **dict.fromkeys(("refused", "sealing_refused", "cosignature_refused"), logging.WARNING),
    **dict.fromkeys(("round_void", "round_lost", "minority_loss"), logging.WARNING),
    **dict.fromkeys(("lost", "damaged", "transplant_unknown", "restarting"), logging.WARNING),
    "failed": logging.ERROR,
}


class Progress(LiveConsole):
    """Logs events and prints them; on a terminal a status line says what is awaited.

    `as_json` is set where the log itself is printed.
    """

    def __init__(self, home: AggregatorHome, as_json: bool) -> None:
        super().__init__(as_json, "starting the engine")
        self._home = home.folder
        self._rounds = home.settings().rounds.rounds

    def on_event(self, event: dict[str, Any]) -> None:
        """Log one event, and show it; what is logged from then on is about its round."""
        kind = event["event"]
        if kind in ("round_opened", "round_resumed"):
            bind(round=event["round"], attempt=event["attempt"])
        if kind == "finished":
            unbind("round", "attempt")
        tell(event, LEVELS.get(kind, logging.INFO))
        line = describe(event, self._rounds)
        if kind == "up":
            then = f"gobelin aggregator status --home {self._home}"
            line += f"; Ctrl-C stops it and loses nothing. Next: {then}"
        if kind in ("waiting", "round_opened", "round_resumed"):
            self._live.update(line)
        self.say(line)


def describe(event: dict[str, Any], rounds: int) -> str:
    """One line for one event."""
    kind = event["event"]
    number = f"round {event['round']}/{rounds}" if "round" in event else ""
    if kind == "up":
        joining = f", and join at {at}" if (at := event.get("service_address")) else ""
        page = f"; its page is at {at}" if (at := event.get("page")) else ""
        return f"up: nodes reach the aggregator at {event['address']}{joining}{page}"
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
    if kind == "release_held":
        return f"{number}: the release is held back: {event['why']}"
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

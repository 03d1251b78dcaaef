"""What a node's operator sees: one live line on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import time

from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.spool import Spool
from gobelin.shared.console import LiveConsole
from gobelin.shared.files import is_owned, read_json

PLAIN_EVERY_S = 10.0  # between two lines about training where there is no terminal


class Progress(LiveConsole):
    """Shows a node's status as it changes."""

    def __init__(self, name: str, as_json: bool) -> None:
        super().__init__(as_json, "starting")
        self._name = name
        self._last_plain = 0.0
        self._last: tuple[str, int, str] = ("", 0, "")

    def on_status(self, status: NodeStatus) -> None:
        """Show a status: every change of state, and training now and then."""
        here = (status.state, status.round, status.note)
        due = time.monotonic() - self._last_plain >= PLAIN_EVERY_S
        self._live.update(describe(status))
        if here == self._last and not (due and status.state == "training"):
            return
        self._last, self._last_plain = here, time.monotonic()
        if self._as_json:
            print(json.dumps(status.facts(), sort_keys=True), flush=True)
        elif not self._console.is_terminal or status.state != "training":
            self.say(f"{self._name}: {describe(status)}")


def describe(status: NodeStatus) -> str:
    """One line for one status."""
    if status.state != "training":
        return f"{status.state}: {status.note}" if status.note else status.state
    return (
        f"round {status.round}/{status.rounds}, step {status.step}/{status.steps}, "
        f"{status.images_per_second:,.0f} images/s, loss {status.loss:.3f}, "
        f"effective rank {status.effective_rank:.1f}, {status.time_left_s:.0f} s left"
    )


def print_status(home: NodeHome, as_json: bool) -> None:
    """Print what a node is doing, from its files alone."""
    settings = home.settings()
    running = is_owned(home.folder)
    last = read_json(home.status_file) if home.status_file.exists() else NodeStatus("idle").facts()
    spool = Spool(home.spool)
    spooled = spool.rounds()
    moments = {number: len(spool.sent_moments(number)) for number in spooled}
    facts = {
        "node": settings.node,
        "member": settings.member,
        "aggregator": settings.aggregator,
        "running": running,
        "status": last,
        "spooled_rounds": spooled,
        "moments": {"declined": not settings.egress.moments, "sent_bytes": moments},
    }
    if as_json:
        print(json.dumps(facts, sort_keys=True))
        return
    print(f"{settings.node} of {settings.member}: {'running' if running else 'not running'}")
    print(f"  {describe(NodeStatus(**last))}")
    print(f"  {settings.egress}")
    if spooled:
        print(f"  finished contributions in the spool: rounds {', '.join(map(str, spooled))}")
    for number, size in moments.items():
        if size:
            print(f"  moments go with the contribution of round {number}: {size:,} bytes")

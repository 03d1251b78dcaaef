"""What a node's operator sees: one live line on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import time
from typing import Any

from gobelin.client.home import BUSY, NodeHome, NodeStatus
from gobelin.client.spool import Entry, Spool
from gobelin.client.uplink import Uplink
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, Contribution
from gobelin.shared.codec import describe_codec
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
        self.show(describe(status))
        if here == self._last and not (due and status.state in BUSY):
            return
        self._last, self._last_plain = here, time.monotonic()
        if self._as_json:
            print(json.dumps(status.facts(), sort_keys=True), flush=True)
        elif not self._console.is_terminal or status.state not in BUSY:
            self.say(f"{self._name}: {describe(status)}")


def describe(status: NodeStatus) -> str:
    """One line for one status."""
    if status.state == "shadow" and status.steps:
        rate = f"step {status.step}/{status.steps}, {status.samples_per_second:,.0f} samples/s"
        return f"between rounds: {status.note}, {rate}, loss {status.loss:.3f}"
    if status.state != "training":
        return f"{status.state}: {status.note}" if status.note else status.state
    return (
        f"round {status.round}/{status.rounds}, step {status.step}/{status.steps}, "
        f"{status.samples_per_second:,.0f} samples/s, loss {status.loss:.3f}, "
        f"effective rank {status.effective_rank:.1f}, {status.time_left_s:.0f} s left"
    )


def print_status(home: NodeHome, as_json: bool) -> None:
    """Print what a node is doing, from its files alone."""
    settings = home.settings()
    running = is_owned(home.folder)
    last = read_json(home.status_file) if home.status_file.exists() else NodeStatus("idle").facts()
    spool = Spool(home.spool)
    entries = [spool.entry(number) for number in spool.rounds()]
    moments = {number: len(spool.sent_moments(number)) for number in spool.rounds()}
    facts = {
        "node": settings.node,
        "member": settings.member,
        "aggregator": settings.aggregator,
        "running": running,
        "status": last,
        "egress": settings.egress.model_dump(exclude_none=True),
        "upload_bytes_per_second": Uplink(home.uplink_file).bytes_per_second(),
        "spool": [_facts(entry) for entry in entries],
        "moments": {"declined": not settings.egress.moments, "sent_bytes": moments},
    }
    if as_json:
        print(json.dumps(facts, sort_keys=True))
        return
    print(f"{settings.node} of {settings.member}: {'running' if running else 'not running'}")
    print(f"  {describe(NodeStatus(**last))}")
    print(f"  {settings.egress}")
    for entry in entries:
        print(f"  {entry.fate} ({describe_contribution(entry.contribution)})")
    for number, size in moments.items():
        if size:
            print(f"  moments go with the contribution of round {number}: {size:,} bytes")


def describe_contribution(made: Contribution) -> str:
    """The codec, the bytes and the distortion of a contribution."""
    return describe_codec(
        made.codec, made.metrics[METRIC_SENT_BYTES], made.metrics[METRIC_DISTORTION]
    )


def _facts(entry: Entry) -> dict[str, Any]:
    """A contribution in the spool as plain data."""
    made, receipt = entry.contribution, entry.receipt
    return {
        "round": made.round,
        "state": entry.state,
        "codec": made.codec,
        "sent_bytes": int(made.metrics[METRIC_SENT_BYTES]),
        "distortion": made.metrics[METRIC_DISTORTION],
        "counted": entry.counted,
        "weight": receipt.weight if receipt else None,
        "reason": receipt.reason if receipt else None,
    }

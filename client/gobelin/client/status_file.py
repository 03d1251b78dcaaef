"""The status file: what a node is doing, for who looks from another process."""

from __future__ import annotations

import time
from dataclasses import replace

from gobelin.client.home import BUSY, NodeHome, NodeStatus, Say
from gobelin.client.progress import describe
from gobelin.shared.files import write_json
from gobelin.shared.notify import alive
from gobelin.shared.resident import peak_mb


def recording(home: NodeHome, say: Say) -> Say:
    """`say`, with the status kept in a file as well (at most once a second while training)."""
    written = 0.0

    def record(status: NodeStatus) -> None:
        nonlocal written
        now = time.monotonic()
        alive(describe(status))
        if status.state not in BUSY or now - written >= 1.0:
            facts = replace(status, peak_mb=peak_mb()).facts()
            write_json(home.status_file, facts, flush=False)  # it is only looked at
            written = now
        say(status)

    return record

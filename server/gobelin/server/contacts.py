"""When each node was last heard of: the SuperLink's own record of heartbeats.

Nodes beat every few seconds whatever else they do, and the SuperLink keeps until when each is
taken to be online. That is the last beat plus twice the interval it announced, so the beat can be
told. It lies in SQLite and outlives every process; it is read here and never written.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gobelin.shared.keys import fingerprint

PATIENCE = 2  # beats that a node may miss: HEARTBEAT_PATIENCE of Flower 1.39
BUSY_S = 0.5  # the writer holds its lock for long where a large model's objects are dropped
QUERY = "SELECT public_key, last_activated_at, online_until, heartbeat_interval FROM node"


@dataclass(frozen=True)
class Contact:
    """What is known of one node's heartbeats."""

    seen: float  # the last
    since: float  # the beginning of its session


def read_contacts(database: Path) -> dict[str, Contact] | None:
    """By node id; None where there is no database yet, or it is busy or not Flower's."""
    if not database.exists():
        return None
    try:
        link = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        with contextlib.closing(link):
            rows = link.execute(QUERY).fetchall()
    except sqlite3.Error:
        return None
    found = {}
    for key, activated, until, interval in rows:
        if key is None or until is None or activated is None:
            continue  # registered and never online
        since = datetime.fromisoformat(activated).timestamp()
        seen = max(since, until - PATIENCE * (interval or 0.0))
        found[_id(bytes(key))] = Contact(seen, since)
    return found


@functools.lru_cache(maxsize=4096)
def _id(key: bytes) -> str:
    return fingerprint(key)

"""The SuperLink's process: Flower's own command, with patience for its database and bounded reads.

Flower forgets an upload, all objects that have come, three minutes after the last of them: less
than a link is down at night, or a large object takes on a slow one.

It waits five seconds for SQLite's write lock and answers 500 after that, which ends a superexec
and a ServerApp. One transaction that drops the objects of a base of a hundred million parameters
holds the lock for longer on a busy machine, and the round that is begun anew ends in the same way.

It also looks for expired tasks at every request, by two UPDATEs that take that lock whether or not
there are any, which is a quarter of what a request costs. Once a second is as good.

And it reads 2 GiB of one request before anybody asks whose it is. No honest request is larger than
one chunk of an array (`objects`), so a stranger's, and a node's, ends there.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from flwr.supercore import constant

from gobelin.server.objects import MOST_OF_ONE
from gobelin.shared.garbage import collected

BUSY_TIMEOUT_MS = 120_000
EXPIRY_EVERY_S = 1.0
UPLOAD_S = 6 * 3600  # that an upload may stand still: Flower's three minutes forget all of it
MOST_OF_REQUEST = 2 * MOST_OF_ONE  # bytes, of a request or an answer


def main() -> int | None:
    """`flower-superlink`; returns its exit status."""
    patience = {"busy_timeout": str(BUSY_TIMEOUT_MS)}
    constant.SQLITE_PRAGMAS = tuple({**dict(constant.SQLITE_PRAGMAS), **patience}.items())
    constant.OBJECT_PUSH_SESSION_TTL_SECONDS = UPLOAD_S
    # It reads the constants above while it is imported.
    flower: Any = importlib.import_module("flwr.superlink.cli.flower_superlink")
    flower.GRPC_MAX_MESSAGE_LENGTH = MOST_OF_REQUEST
    core: Any = importlib.import_module("flwr.supercore.corestate.sql_corestate").SqlCoreState
    core._cleanup_expired_task_tokens = seldom(core._cleanup_expired_task_tokens, EXPIRY_EVERY_S)
    with collected():
        status: int | None = flower.flower_superlink()
    return status


def seldom(
    tidy: Callable[[Any], None], every_s: float, clock: Callable[[], float] = time.monotonic
) -> Callable[[Any], None]:
    """`tidy`, which does nothing where it was begun less than `every_s` ago."""
    due = clock()

    def tidy_seldom(state: Any) -> None:
        nonlocal due
        now = clock()
        if now >= due:
            due = now + every_s
            tidy(state)

    return tidy_seldom


if __name__ == "__main__":
    sys.exit(main())

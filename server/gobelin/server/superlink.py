"""The SuperLink's process: Flower's own command, with patience for its database.

Beside engine.py and uploads.py the only module of the aggregator that imports flwr. Flower waits
five seconds for SQLite's write lock and answers 500 after that, which ends a superexec and a
ServerApp. One transaction that drops the objects of a base of a hundred million parameters holds
the lock for longer on a busy machine, and the round that is begun anew ends in the same way.
"""

from __future__ import annotations

import sys

from flwr.supercore import constant

BUSY_TIMEOUT_MS = 120_000


def main() -> int | None:
    """`flower-superlink`; returns its exit status."""
    patience = {"busy_timeout": str(BUSY_TIMEOUT_MS)}
    constant.SQLITE_PRAGMAS = tuple({**dict(constant.SQLITE_PRAGMAS), **patience}.items())
    from flwr.superlink.cli import flower_superlink  # reads the constant while it is imported

    status: int | None = flower_superlink()
    return status


if __name__ == "__main__":
    sys.exit(main())

"""The SuperLink's process waits for its database for longer than Flower's would, and reads less."""

from __future__ import annotations

import subprocess
import sys

from gobelin.server.superlink import BUSY_TIMEOUT_MS, MOST_OF_REQUEST, seldom

SCRIPT = """
import sys
from gobelin.server import superlink
from flwr.supercore import constant  # before Flower's command is imported, as in the real process
import importlib, types

stand_in = types.SimpleNamespace()

def command():
    from flwr.supercore.sql_mixin import SQLITE_PRAGMAS
    pragmas = dict(SQLITE_PRAGMAS)
    print(pragmas["busy_timeout"], pragmas["journal_mode"], stand_in.GRPC_MAX_MESSAGE_LENGTH)
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    print(SqlLinkState._cleanup_expired_task_tokens.__name__)
    return 3

stand_in.flower_superlink = command
sys.modules["flwr.superlink.cli.flower_superlink"] = stand_in
sys.exit(superlink.main())
"""


def test_flowers_command_runs_with_a_longer_wait_and_bounded_requests() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    found = (done.stdout.split(), done.returncode)
    assert found == ([str(BUSY_TIMEOUT_MS), "WAL", str(MOST_OF_REQUEST), "tidy_seldom"], 3), (
        done.stderr
    )


def test_expired_tasks_are_looked_for_at_once_and_then_once_a_while() -> None:
    told, times = [], iter([0.0, 0.0, 0.4, 0.9, 1.0, 1.5, 7.0, 7.1])
    tidy = seldom(told.append, 1.0, lambda: next(times))
    for request in range(7):
        tidy(request)
    assert told == [0, 3, 5]


def test_it_does_without_torch() -> None:
    """200 MB of every aggregator's memory, and seconds of every restart."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, gobelin.server.superlink; print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"

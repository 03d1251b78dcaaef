"""The SuperLink's process waits for database and uploads for longer, and reads less."""

from __future__ import annotations

import subprocess
import sys

from gobelin.server.superlink import BUSY_TIMEOUT_MS, MOST_OF_REQUEST, UPLOAD_S, seldom

SCRIPT = """
import sys
from gobelin.server import superlink
from flwr.supercore import constant  # before Flower's command is imported, as in the real process
import importlib, threading, types

stand_in = types.SimpleNamespace()

def command():
    from flwr.supercore.sql_mixin import SQLITE_PRAGMAS
    pragmas = dict(SQLITE_PRAGMAS)
    from flwr.supercore.corestate.sql_corestate import OBJECT_PUSH_SESSION_TTL_SECONDS as kept_s
    print(pragmas["busy_timeout"], pragmas["journal_mode"], stand_in.GRPC_MAX_MESSAGE_LENGTH)
    print(kept_s)
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    print("torch" in sys.modules)
    print(SqlLinkState._cleanup_expired_task_tokens.__name__)
    print("garbage" in {thread.name for thread in threading.enumerate()})
    return 3

stand_in.flower_superlink = command
sys.modules["flwr.superlink.cli.flower_superlink"] = stand_in
sys.exit(superlink.main())
"""


def test_flowers_command_runs_with_a_longer_wait_bounded_requests_and_no_tensors() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    wanted = [
        str(BUSY_TIMEOUT_MS),
        "WAL",
        str(MOST_OF_REQUEST),
        str(UPLOAD_S),
        "False",
        "tidy_seldom",
        "True",
    ]
    assert (done.stdout.split(), done.returncode) == (wanted, 3), done.stderr


def test_expired_tasks_are_looked_for_at_once_and_then_once_a_while() -> None:
    told, times = [], iter([0.0, 0.0, 0.4, 0.9, 1.0, 1.5, 7.0, 7.1])
    tidy = seldom(told.append, 1.0, lambda: next(times))
    for request in range(7):
        tidy(request)
    assert told == [0, 3, 5]

"""The SuperLink's process waits for its database and for uploads, and reads less."""

from __future__ import annotations

import subprocess
import sys

from gobelin.server.superlink import BUSY_TIMEOUT_MS, MOST_OF_REQUEST, UPLOAD_S

SCRIPT = """
import sys
from gobelin.server import superlink
from flwr.supercore import constant  # before Flower's command is imported, as in the real process
import importlib, types

stand_in = types.SimpleNamespace()

def command():
    from flwr.supercore.sql_mixin import SQLITE_PRAGMAS
    pragmas = dict(SQLITE_PRAGMAS)
    from flwr.supercore.corestate.sql_corestate import OBJECT_PUSH_SESSION_TTL_SECONDS as kept_s
    print(pragmas["busy_timeout"], pragmas["journal_mode"], stand_in.GRPC_MAX_MESSAGE_LENGTH)
    print(kept_s)
    return 3

stand_in.flower_superlink = command
sys.modules["flwr.superlink.cli.flower_superlink"] = stand_in
sys.exit(superlink.main())
"""


def test_flowers_command_runs_with_a_longer_wait_and_bounded_requests() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    found = (done.stdout.split(), done.returncode)
    assert found == ([str(BUSY_TIMEOUT_MS), "WAL", str(MOST_OF_REQUEST), str(UPLOAD_S)], 3), (
        done.stderr
    )

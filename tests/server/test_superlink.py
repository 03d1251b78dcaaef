"""The SuperLink's process waits for its database for longer than Flower's would."""

from __future__ import annotations

import subprocess
import sys

from gobelin.server.superlink import BUSY_TIMEOUT_MS

SCRIPT = """
import sys, types
from gobelin.server import superlink

def command():
    from flwr.supercore.sql_mixin import SQLITE_PRAGMAS
    print(dict(SQLITE_PRAGMAS)["busy_timeout"], dict(SQLITE_PRAGMAS)["journal_mode"])
    return 3

sys.modules["flwr.superlink.cli"] = types.SimpleNamespace(flower_superlink=command)
sys.exit(superlink.main())
"""


def test_flowers_command_runs_with_a_longer_wait_and_all_else_as_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == ([str(BUSY_TIMEOUT_MS), "WAL"], 3)

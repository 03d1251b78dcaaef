"""Kill −9 while the shadow works: the solo model and what was measured are the undisturbed ones."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gobelin.client.home import NodeHome
from gobelin.client.shadow.record import Record, read_record
from gobelin.client.shadow.solo import read_solo
from gobelin.shared.files import is_unfinished, sweep
from tests.client.shadow.node import RECIPE, SHADOW, home_at

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
ROUNDS, KILLS = 2, 5


def run(home: NodeHome, looks: int | None) -> bool:
    """One process, killed after so many looks; whether it came to its end before."""
    command = [sys.executable, "-m", "tests.faults.shadowed", str(home.folder), str(ROUNDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for seen, line in enumerate(process.stdout, 1):
            if line == "done\n":
                return process.wait() == 0
            if seen == looks:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return False
    return False


def test_killed_again_and_again_it_ends_at_the_same_bytes(tmp_path: Path) -> None:
    whole, torn = home_at(tmp_path, SHADOW), home_at(tmp_path, SHADOW)
    assert run(whole, None)
    rng = random.Random(5)
    for _ in range(KILLS):
        run(torn, rng.randint(1, 14))
        sweep(torn.folder)  # as the node does when it starts
        assert not any(is_unfinished(path) for path in torn.folder.rglob("*"))
    assert run(torn, None)
    solos = [read_solo(home.shadow / "solo", RECIPE) for home in (whole, torn)]
    assert solos[0] is not None
    assert solos[1] is not None
    assert solos[0].vector.digest == solos[1].vector.digest
    assert solos[0].samples == solos[1].samples
    records = [read_record(home.shadow) for home in (whole, torn)]
    assert records[0] is not None
    assert records[1] is not None
    assert _counted(records[0]) == _counted(records[1])


def _counted(record: Record) -> Record:
    """Without what times decide: seconds, and which looks there was time for in between."""
    last = tuple(point for point in record.solo if point.at == record.solo_steps)
    trained = {number: (samples, 0.0) for number, (samples, _) in record.trained.items()}
    return dataclasses.replace(record, trained=trained, solo=last, consensus=())

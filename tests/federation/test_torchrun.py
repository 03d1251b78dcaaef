"""A node of two processes under the real torchrun takes part in a federation to its end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from examples.loopback import GOBELIN, Loopback
from tests.federation.test_loopback import private_images


@pytest.mark.slow
def test_a_node_under_torchrun_contributes_to_every_round(tmp_path: Path) -> None:
    members = {"north": private_images(tmp_path, "north", 0)}
    with Loopback(tmp_path, members, rounds=2) as net:
        net.found()
        net.start_aggregator()
        run = [GOBELIN, "node", "run", "--home", net.node_home("north")]
        torchrun = [GOBELIN.with_name("torchrun"), "--nproc-per-node", "2", "--no-python"]
        with (tmp_path / "north.log").open("wb") as log:
            net.processes["north"] = subprocess.Popen(
                [*torchrun, *run],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        net.wait(200)
        assert net.processes["north"].returncode == 0  # the others were let go
        assert len(net.events("round_sealed")) == 2
        log_text = net.log("north")
        assert log_text.count(": starting") == 1  # one process alone speaks
        assert "finished: 2 rounds" in log_text

"""A node that misses a round, with real processes: counted late, once, whoever was killed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.loopback import Loopback
from gobelin.shared.checkpoint import read_checkpoint
from tests.federation.test_loopback import private_images

ROUNDS = 5


@pytest.mark.parametrize(
    "killed",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["on the wire", "after a kill"],
)
def test_a_node_that_missed_a_round_is_counted_late_and_once(
    tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """South stops while it trains for round 1, which is sealed without it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    members = {name: private_images(tmp_path, name, i) for i, name in enumerate(["north", "south"])}
    with Loopback(tmp_path, members, rounds=ROUNDS, local_steps=300, seed=7) as net:
        net.found()
        settings = net.aggregator_home / "federation.toml"
        text = settings.read_text().replace("quorum = 1.0", "quorum = 0.5\ngrace_s = 1.0")
        settings.write_text(text.replace("max_staleness = 2", "max_staleness = 9"))
        net.start()
        wait_until(lambda: training(net, "south"))
        net.processes["south"].send_signal(signal.SIGSTOP)
        net.wait_for("round_sealed", 1 if killed else 2)
        if killed:
            net.kill("aggregator")
        net.processes["south"].send_signal(signal.SIGCONT)
        if killed:
            net.start_aggregator()
        told = net.wait_for("late")
        assert (told["node"], told["round"]) == ("south", 1 + told["staleness"])
        net.wait()
        rounds = net.aggregator_home / "rounds"
        sealed = [read_checkpoint(rounds / f"round-{n:05d}").facts for n in range(1, ROUNDS + 1)]
        rows = [row for facts in sealed for row in facts["contributions"]]
        counted = [(row["node"], row["plan_digest"]) for row in rows]
        assert len(counted) == len(set(counted))
        assert ("south", sealed[0]["plan_digest"]) in counted
        if not killed:  # a plan that a newer one has overtaken is not trained for
            assert ("south", sealed[1]["plan_digest"]) not in counted


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def training(net: Loopback, name: str) -> bool:
    file = net.node_home(name) / "status.json"
    return file.exists() and json.loads(file.read_bytes())["state"] == "training"

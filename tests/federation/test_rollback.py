"""Operating a real federation: paused, stopped, rolled back, upgraded, while its nodes go on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from examples.loopback import Loopback
from gobelin.server.home import AggregatorHome
from gobelin.server.rollback import roll_back
from gobelin.server.verify import verify_home
from gobelin.shared.formats import AGGREGATOR, FILE, KEPT, behind
from gobelin.shared.pausing import begin_pause, end_pause
from tests.federation.test_loopback import private_images

ROUNDS = 5
WAIT_S = 600.0  # on a machine that has much else to do


@pytest.mark.slow
def test_nodes_that_never_stop_follow_a_pause_a_rollback_and_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    members = {name: private_images(tmp_path, name, i) for i, name in enumerate(["north", "south"])}
    with Loopback(tmp_path, members, rounds=ROUNDS, local_steps=20, seed=7) as net:
        net.found()
        settings = net.aggregator_home / "federation.toml"
        settings.write_text(settings.read_text().replace("archive = false", "archive = true"))
        net.start()
        net.wait_for("round_sealed", 2, WAIT_S)
        home = AggregatorHome(net.aggregator_home)
        begin_pause(home.folder, "the consensus has diverged", 0)
        give_up = time.monotonic() + WAIT_S
        while not all("the consensus has diverged" in note(net, name) for name in members):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        net.kill("aggregator")
        last = home.sealed_rounds()[-1]
        (home.folder / FILE).unlink()  # as an older gobelin has left it
        done = roll_back(home, "round-1", "diverged", lambda event, facts: None)
        assert done["round"] == last + 1
        end_pause(home.folder)
        net.start_aggregator()
        net.wait()
        assert behind(home.folder, AGGREGATOR) == {}
        assert not (home.folder / KEPT).exists()  # nothing had to be rewritten
        told = verify_home(home, home.aggregator_key(), replayed=True)
        assert told["rollbacks"] == [{"round": last + 1, "to": 1, "why": "diverged"}]
        assert set(told["replayed"]) == set(range(1, ROUNDS + 1)) - {last + 1}
        counted = home.facts(last + 2)["contributions"]
        assert sorted(row["node"] for row in counted) == ["north", "south"]


def note(net: Loopback, name: str) -> str:
    file = net.node_home(name) / "status.json"
    return str(json.loads(file.read_bytes())["note"]) if file.exists() else ""

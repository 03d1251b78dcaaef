"""A real federation with shadows: rounds go on, nodes are killed, premiums reach the release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.loopback import Loopback, gobelin
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data.export import write_idx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
TABLE = "\n[shadow]\ncompute = 0.5\nheld_out = 0.25\nshare = true\n"


def images(folder: Path, seed: int) -> Path:
    """128 images of two classes that brightness tells."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 128)
    pixels = rng.integers(0, 120, (128, 1, 28, 28)) + 120 * labels[:, None, None, None]
    write_idx(folder, torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))
    return folder


def run(folder: Path, shadow: bool, killed: bool = False) -> tuple[str, Loopback]:
    """Four rounds of two nodes; the digest of the consensus.

    Without a shadow nodes have a table all the same, which takes as good as no time.
    """
    members = {name: images(folder / name, i) for i, name in enumerate(("north", "south"))}
    with Loopback(folder, members, rounds=4, local_steps=20, seed=3) as net:
        net.found()
        for name in members:
            table = TABLE if shadow else TABLE.replace("0.5", "1e-9").replace("true", "false")
            with (net.node_home(name) / "node.toml").open("a") as file:
                file.write(table)
        net.start()
        if killed:
            for number in (2,):
                net.wait_for("round_sealed", number, timeout_s=900)
                net.kill("north")
                net.start_node("north")
        net.wait(900)
        assert "Traceback" not in net.log("north") + net.log("south") + net.log("aggregator")
    return read_checkpoint(net.release).vector.digest, net


def test_shadows_change_no_consensus_and_their_premiums_are_published(tmp_path: Path) -> None:
    digest, net = run(tmp_path / "on", shadow=True, killed=True)
    plain, _ = run(tmp_path / "off", shadow=False)
    assert digest == plain
    told = {}
    for name in ("north", "south"):
        status = json.loads(gobelin("node", "status", "--home", net.node_home(name), "--json"))
        premium = status["premium"]
        assert (premium["measure"], premium["ended"]) == ("probe", "")
        assert premium["contributed"] == 4 * 20 * 16
        assert 0 <= premium["seen_samples"] <= premium["contributed"]
        told[name] = premium["points"]
        assert status["left"]["by_purpose"]["deltas"] > 0
        assert status["counted"] == 4
    rows = [row for number in range(1, 5) for row in _rows(net, number)]
    metrics = {name for row in rows for name in row["metrics"] if name.startswith("premium")}
    if any(points is not None for points in told.values()):
        assert metrics <= {"premium_probe", "premium_seen"}
    card = (net.release / "model_card.md").read_text()
    assert "## What federating gave its members" in card


def _rows(net: Loopback, number: int) -> list[dict[str, dict[str, float]]]:
    folder = net.aggregator_home / "rounds" / f"round-{number:05d}"
    rows: list[dict[str, dict[str, float]]] = read_checkpoint(folder).facts["contributions"]
    return rows

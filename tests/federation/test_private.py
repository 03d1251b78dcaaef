"""A real federation whose members train with differential privacy, until a budget is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from examples.loopback import Loopback, gobelin
from gobelin.client.privacy.accounting import Spend, epsilon
from tests.client.privacy.recipes import BYOL
from tests.federation.test_loopback import private_images

pytest.importorskip("dp_accounting")
SIGMA, BATCH, SAMPLES, STEPS, DELTA = 2.0, 32, 64, 3, 1e-5
SPEND = Spend(SIGMA, BATCH / SAMPLES, STEPS)


@pytest.mark.slow
def test_a_private_node_counts_until_its_site_says_enough(tmp_path: Path) -> None:
    recipe = tmp_path / "byol.toml"
    recipe.write_text(tomli_w.dumps(BYOL.model_dump(mode="json", exclude_none=True)))
    members = {name: private_images(tmp_path, name, i) for i, name in enumerate(("north", "south"))}
    options = ("--quorum", "0.5")
    net = Loopback(tmp_path, members, str(recipe), 3, STEPS, seed=7, options=options)
    net.found()
    rounds = net.aggregator_home / "federation.toml"
    rounds.write_text(rounds.read_text().replace("[rounds]", "[rounds]\ngrace_s = 20.0", 1))
    north = net.node_home("north")
    with (north / "node.toml").open("a") as settings:
        settings.write(f"\n[privacy]\nnoise_multiplier = {SIGMA}\nbatch_size = {BATCH}\n")
    enough = (epsilon([SPEND] * 2, DELTA) + epsilon([SPEND] * 3, DELTA)) / 2
    (north / "policy.toml").write_text(f"max_epsilon = {enough}\ndelta = {DELTA}\n")
    with net:
        net.start()
        net.wait_for("round_sealed", 3, timeout_s=240)
        counted = [(row["round"], row["node"]) for row in net.events("contribution")]
    ours = sorted(number for number, node in counted if node.startswith("north"))
    assert ours == [1, 2]
    assert len([node for _, node in counted if node.startswith("south")]) == 3
    told = json.loads(gobelin("node", "egress", "--home", north, "--json"))["privacy"]
    assert told["epsilon"] == pytest.approx(epsilon([SPEND] * 2, DELTA))
    assert told["private"] == 2
    assert told["bare"] == 0

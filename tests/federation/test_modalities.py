"""A real federation on loopback whose members have images or trajectories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.in_process import federate_in_process
from examples.loopback import Loopback
from gobelin.server.outer import make_outer
from gobelin.server.seal import Standing
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.fragments import SHARED
from gobelin.shared.recipe import load_recipe
from tests.two_modalities import write_episodes, write_images, write_recipe

STEPS, ROUNDS, SEED = 3, 3, 7
MODALITIES = {"north": "image", "south": "image", "west": "robot"}
OUTER = ("--outer", "nesterov", "--outer-lr", "0.7", "--outer-momentum", "0.9")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def federation(folder: Path, options: tuple[str, ...]) -> Loopback:
    write = {"image": write_images, "robot": write_episodes}
    members = {
        name: write[modality](folder / "data" / name, seed)
        for seed, (name, modality) in enumerate(MODALITIES.items())
    }
    return Loopback(
        folder,
        members,
        recipe=str(write_recipe(folder)),
        rounds=ROUNDS,
        local_steps=STEPS,
        seed=SEED,
        options=(*OUTER, *options),
        modalities=MODALITIES,
    )


@pytest.mark.parametrize(
    ("codec", "fragments", "broadcast", "cross_node"),
    [
        pytest.param("fp32", 1, "fp32", False, marks=pytest.mark.slow),
        pytest.param("topk", 2, "int8", False, marks=pytest.mark.slow),
        ("int8", 1, "fp32", True),
    ],
)
def test_members_of_two_modalities_give_the_digest_of_the_same_rounds_in_one_process(
    tmp_path: Path, codec: str, fragments: int, broadcast: str, cross_node: bool
) -> None:
    """The only robot and then the aggregator are killed on the way."""
    options = ("--codec", codec, "--fragments", str(fragments), "--broadcast", broadcast)
    with federation(tmp_path, (*options, *["--cross-node"] * cross_node)) as net:
        net.found()
        net.start()
        net.wait_for("round_sealed", 1)
        net.kill("west")
        net.start_node("west")
        net.wait_for("round_sealed", 2)
        net.kill("aggregator")
        net.start_aggregator()
        net.wait()
        release = read_checkpoint(net.release)
        torch.set_num_threads(1)
        recipe = load_recipe(net.recipe)
        sources = {
            name: recipe.modality(MODALITIES[name]).open(path) for name, path in net.members.items()
        }
        expected = federate_in_process(
            recipe,
            sources,
            ROUNDS,
            STEPS,
            SEED,
            make_outer("nesterov", 0.7, 0.9),
            codec=codec,
            fragments=fragments,
            broadcast=broadcast,
            cross_node=cross_node,
            modalities=MODALITIES,
        )
        assert release.vector.digest == expected.digest
        second = read_checkpoint(net.aggregator_home / "rounds" / "round-00002")
        pooled = Standing.of(second).moments  # the only robot's moments reach nobody
        assert (set(pooled.pooled) if pooled else set()) == ({"image"} if cross_node else set())
        told = {row["node"]: row["modality"] for row in release.facts["contributions"]}
        assert told == MODALITIES
        groups = release.facts["groups"]
        trained = {SHARED: set(MODALITIES), "image": {"north", "south"}, "robot": {"west"}}
        assert fragments > 1 or set(groups) == set(trained)
        assert {group: set(row["members"]) for group, row in groups.items()} == {
            group: trained[group] for group in groups
        }
        sent = {row["node"]: row["bytes"] for row in release.facts["contributions"]}
        assert codec != "fp32" or sent["west"] < 4 * release.vector.schema.size
        assert "Traceback" not in "".join(map(net.log, ("aggregator", *MODALITIES)))

"""Real federations on loopback: processes, TLS, node authentication, real bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.in_process import federate_in_process
from examples.loopback import GOBELIN, Loopback, gobelin
from gobelin.server.outer import make_outer
from gobelin.server.verify import verify_path
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data.export import write_idx
from gobelin.shared.recipe import load_recipe

STEPS = 3
OUTER = ("--outer", "nesterov", "--outer-lr", "0.7", "--outer-momentum", "0.9")


def private_images(folder: Path, member: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (64, 1, 28, 28), dtype=np.uint8))
    write_idx(folder / "data" / member, images, torch.zeros(64, dtype=torch.int64))
    return folder / "data" / member


def federation(
    folder: Path,
    rounds: int,
    codec: str = "fp32",
    names: tuple[str, ...] = ("north", "south"),
    options: tuple[str, ...] = (),
) -> Loopback:
    members = {name: private_images(folder, name, i) for i, name in enumerate(names)}
    return Loopback(
        folder,
        members,
        rounds=rounds,
        local_steps=STEPS,
        seed=7,
        options=(*OUTER, "--codec", codec, *options),
    )


def computed_here(members: dict[str, Path], rounds: int, codec: str, **how: Any) -> str:
    """Digest of the consensus after the same rounds, computed in this process."""
    torch.set_num_threads(1)
    sources = {
        name: load_recipe("toy").modality().open(path)
        for name, path in sorted(members.items(), reverse=True)  # any order gives the same sum
    }
    outer = make_outer("nesterov", 0.7, 0.9)
    recipe = load_recipe("toy")
    vector = federate_in_process(recipe, sources, rounds, STEPS, 7, outer, codec=codec, **how)
    return vector.digest


@pytest.mark.parametrize("codec", ["fp32", pytest.param("int4", marks=pytest.mark.slow)])
def test_two_rounds_give_the_digest_of_the_same_rounds_in_one_process(
    tmp_path: Path, codec: str
) -> None:
    with federation(tmp_path, rounds=2, codec=codec) as net:
        net.found()
        net.start()
        net.wait()
        release = read_checkpoint(net.release)
        assert release.vector.digest == computed_here(dict(net.members), 2, codec)
        assert "finished" in net.log("north")
        assert f"contribution sent ({codec}, " in net.log("north")
        assert f"; {codec}, " in net.log("aggregator")
        assert [row["member"] for row in release.facts["contributions"]] == ["north", "south"]
        status = status_of(net)
        assert (status["sealed"], status["running"]) == (2, False)
        assert [one["name"] for one in status["releases"]] == ["release-00002"]
        everything = net.log("aggregator") + net.log("north") + net.log("south")
        assert "Traceback" not in everything
        check_ledger(net)


def check_ledger(net: Loopback) -> None:
    """Both nodes have cosigned what they trained from, and both receipts are proved."""
    ca = net.node_home("north") / "ca.pem"
    options: dict[str, Any] = {"replayed": False, "influence": False, "memory": None}
    told = verify_path(net.aggregator_home, ca, **options)
    assert (told["rounds"], told["contributions"]) == (net.rounds, 2 * net.rounds)
    assert told["releases"] == [net.release.name]
    assert told["cosignatures"] >= 2 * net.rounds
    for node in net.members:
        for number in range(1, net.rounds + 1):
            receipt = net.node_home(node) / "receipts" / f"round-{number:05d}.json"
            found = verify_path(receipt, None, **options)
            assert (found["node"], found["weight"]) == (node, 0.5)
    accepted = gobelin("node", "accept", net.release, "--home", net.node_home("north"), "--json")
    assert json.loads(accepted)["round"] == net.rounds


# topk: what it owes outlives the kill; fragments: so do a node's own model and each one's momentum;
# warm-up rounds: so does where the schedule stands
@pytest.mark.parametrize(
    ("codec", "fragments", "broadcast", "warmup"),
    [
        ("topk", 1, "fp32", 2),
        pytest.param("fp32", 1, "fp32", 0, marks=pytest.mark.slow),
        pytest.param("topk", 2, "int8", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_processes_come_back_and_the_digest_is_the_undisturbed_one(
    tmp_path: Path, codec: str, fragments: int, broadcast: str, warmup: int
) -> None:
    options = ("--fragments", str(fragments), "--broadcast", broadcast)
    options += ("--warmup-rounds", str(warmup))
    with federation(tmp_path, 3, codec, options=options) as net:
        net.found()
        net.start()
        net.wait_for("round_sealed", 1)
        net.kill("north")
        net.start_node("north")
        south = net.processes["south"]
        south.terminate()
        assert south.wait(30) == 0  # stopping on request is no error
        net.start_node("south")
        net.wait_for("round_sealed", 2)
        net.kill("aggregator")
        net.start_aggregator()
        net.wait()
        vector = read_checkpoint(net.release).vector
        how = {"fragments": fragments, "broadcast": broadcast}
        how |= {"warmup_rounds": warmup}
        assert vector.digest == computed_here(dict(net.members), 3, codec, **how)
        taken = {(row["round"], row["local_steps"]) for row in net.events("contribution")}
        assert taken == {(number, 1 if number <= warmup else STEPS) for number in (1, 2, 3)}


def test_moments_go_around_a_round_late_and_outlive_a_kill(tmp_path: Path) -> None:
    """West declines to send any; north is killed after the round that the next one leans on."""
    names = ("north", "south", "west")
    with federation(tmp_path, 3, "int4", names, ("--cross-node",)) as net:
        net.found()
        decline(net.node_home("west"))
        net.start()
        net.wait_for("round_sealed", 1)
        net.kill("north")
        net.start_node("north")
        net.wait()
        release = read_checkpoint(net.release)
        across = {"cross_node": True, "declining": ("west",)}
        members = dict(net.members)
        assert release.vector.digest == computed_here(members, 3, "int4", **across)
        assert release.vector.digest != computed_here(members, 3, "int4")
        for number in (1, 2):
            facts = read_checkpoint(net.aggregator_home / "rounds" / f"round-{number:05d}").facts
            sent = {row["node"] for row in facts["contributions"] if row["moments_digest"]}
            assert sent == {"north", "south"}
        assert "moments, 184 bytes" in net.log("north")
        assert "moments" not in net.log("west").replace(str(net.folder), "").replace(
            "no moments", ""
        )
        told = gobelin("node", "status", "--home", net.node_home("north"))
        assert "the contribution of round 2: 184 bytes" in told
        assert "no moments" in gobelin("node", "status", "--home", net.node_home("west"))


def decline(home: Path) -> None:
    """Say no to moments as an operator does, in node.toml."""
    settings = (home / "node.toml").read_text()
    assert "moments = true" in settings
    (home / "node.toml").write_text(settings.replace("moments = true", "moments = false"))


def test_steps_lead_every_node_to_the_same_bits_also_one_that_lost_its_base(
    tmp_path: Path,
) -> None:
    options = ("--broadcast", "int8")
    with federation(tmp_path, rounds=4, codec="int4", options=options) as net:
        net.found()
        net.start()
        net.wait_for("round_sealed", 2)
        net.kill("north")
        (net.node_home("north") / "base.f32").unlink()
        net.start_node("north")
        net.wait()
        vector = read_checkpoint(net.release).vector
        assert vector.digest == computed_here(dict(net.members), 4, "int4", broadcast="int8")
        refused = {(row["node"], row["reason"]) for row in net.events("refused")}
        assert refused == {("north", "contribution.base_missing")}
        steps = {node: steps_sent(net, node) for node in net.members}
        assert steps["south"] == [None, 1, 1, 1]
        assert steps["north"][:2] == [None, 1]
        assert steps["north"].count(None) == 2  # the first base, and the one it had lost
        for member in net.members:
            last = node_status(net, member)["spool"][-1]
            assert (last["round"], last["state"], last["counted"]) == (4, "receipted", True)
            assert (last["codec"], last["weight"]) == ("int4", 0.5)
        assert "Traceback" not in net.log("aggregator") + net.log("north") + net.log("south")


def steps_sent(net: Loopback, node: str) -> list[int | None]:
    """How many steps a node was sent with each offer; None: the whole base."""
    offers = [row["nodes"] for row in net.events("offered")]
    return [nodes[node]["steps"] for nodes in offers if node in nodes]


def test_a_node_with_an_egress_budget_sends_a_coarser_codec_and_counts(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=2) as net:
        net.found()
        settings = net.node_home("south") / "node.toml"
        budget = "[egress]\nmax_mb_per_round = 0.003\n"
        settings.write_text(settings.read_text().replace("[egress]\n", budget))
        net.start()
        net.wait()
        sent = {(row["node"], row["codec"]) for row in net.events("contribution")}
        assert sent == {("north", "fp32"), ("south", "int4")}
        assert all(
            row["bytes"] <= 3000 for row in net.events("contribution") if row["node"] == "south"
        )
        nodes = status_of(net)["nodes"]
        assert (nodes["south"]["codec"], nodes["north"]["codec"]) == ("int4", "fp32")
        assert nodes["south"]["distortion"] > 0
        south = node_status(net, "south")
        assert (south["egress"]["moments"], south["egress"]["max_mb_per_round"]) == (True, 0.003)
        assert south["upload_bytes_per_second"] > 0
        assert [row["counted"] for row in south["spool"]] == [True, True]
        text = gobelin("node", "status", "--home", net.node_home("south"))
        assert "the contribution to round 2 counted with weight 0.5 (int4, " in text


def test_a_node_with_an_unregistered_key_is_refused(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=2) as net:
        net.found()
        net.found_node("stranger", net.members["north"], status_of(net)["address"])
        net.start_aggregator()
        refused = run_node(net.node_home("stranger"))
        assert refused.returncode == 33
        assert "does not know this node's key" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_node_with_unreadable_data_says_so_and_tells_no_more_than_a_code(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=2) as net:
        net.found()
        for file in net.members["north"].iterdir():
            file.write_bytes(file.read_bytes()[:100])
        net.start_aggregator()
        net.start_node("south")
        refused = run_node(net.node_home("north"))
        assert refused.returncode == 12
        assert "Traceback" not in refused.stderr
        told = net.wait_for("refused")
        assert (told["node"], told["reason"], told["found"]) == (
            "north",
            "node_error",
            "gobelin:data",
        )


def test_an_aggregator_of_another_ca_is_refused(tmp_path: Path) -> None:
    with federation(tmp_path, rounds=2) as net:
        net.found()
        other = ("--home", tmp_path / "other", "--name", "other", "--recipe", "toy")
        gobelin("aggregator", "init", *other)
        (net.node_home("north") / "ca.pem").write_bytes(
            (tmp_path / "other" / "tls" / "ca.pem").read_bytes()
        )
        net.start_aggregator()
        refused = run_node(net.node_home("north"))
        assert refused.returncode == 32
        assert "not this federation's aggregator" in refused.stderr


def status_of(net: Loopback) -> dict[str, Any]:
    return json.loads(gobelin("aggregator", "status", "--home", net.aggregator_home, "--json"))


def node_status(net: Loopback, member: str) -> dict[str, Any]:
    return json.loads(gobelin("node", "status", "--home", net.node_home(member), "--json"))


def run_node(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GOBELIN, "node", "run", "--home", home], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

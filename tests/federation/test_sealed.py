"""Sealed rounds in real federations on loopback, against the open rounds of the same deltas."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from examples.loopback import Loopback
from gobelin.client.home import NodeSettings, found_node
from gobelin.server.founding import Charter, admit_node, found
from gobelin.server.reasons import RefusalCode
from gobelin.shared.checkpoint import Checkpoint, read_checkpoint
from gobelin.shared.files import write_atomic
from gobelin.shared.sealing import Ring, bits_for
from gobelin.shared.vector import ParameterVector
from tests.federation.test_loopback import STEPS, computed_here, private_images

NAMES = ("east", "north", "south")
FOLDERS = ("round-00001", "round-00002")
RING = Ring(bits_for(64, 1.0), 1.0)


class SealedLoopback(Loopback):
    """Founded in this process, for a command that only writes files takes seconds to start."""

    def found(self) -> None:
        """Found the federation and its nodes, and admit them."""
        rounds = {
            "rounds": self.rounds,
            "local_steps": self.local_steps,
            "quorum": 1.0,
            "min_members": 3,
            "max_staleness": 0,
            "sealed": True,
            "sealed_threshold": 0.5,
            "sealed_offline_s": 120.0,
        }
        outer = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}
        charter = Charter(
            "loopback",
            self.recipe,
            "127.0.0.1:0",
            self.seed,
            rounds=rounds,
            outer=outer,
            policy={"collapse_gate": False},
        )
        address = found(self.aggregator_home, charter)["address"]
        for member, data in self.members.items():
            settings = NodeSettings.model_validate(
                {
                    "member": member,
                    "node": member,
                    "aggregator": address,
                    "data": {"path": str(data)},
                    "compute": {"threads": self.threads},
                    "egress": {"sealed_only": True, "min_sealed_members": 2},
                }
            )
            home = found_node(
                self.node_home(member), settings, self.aggregator_home / "tls" / "ca.pem"
            )
            admit_node(self.aggregator_home, home.public_key_file, member, member)

    def wait_for_phase(self, number: int, phase: str) -> None:
        """Wait until a round's nodes have answered a phase."""
        for count in itertools.count(1):
            row = self.wait_for("sealing", count)
            if (row["round"], row["phase"]) == (number, phase):
                return


def net_of(folder: Path, rounds: int) -> SealedLoopback:
    members = {name: private_images(folder, name, at) for at, name in enumerate(NAMES)}
    return SealedLoopback(folder, members, rounds=rounds, local_steps=STEPS, seed=7)


def expected(net: Loopback, counted: Mapping[int, set[str]]) -> str:
    """The consensus of open rounds of the same deltas on the same grid, by weighted mean."""

    def present(
        number: int, base: ParameterVector, deltas: Mapping[str, ParameterVector]
    ) -> Mapping[str, ParameterVector]:
        return {name: delta for name, delta in deltas.items() if name in counted[number]}

    return computed_here(dict(net.members), net.rounds, "fp32", ring=RING, tamper=present)


def impatient(net: Loopback) -> None:
    """From the next session on who is silent drops out soon."""
    file = net.aggregator_home / "federation.toml"
    text = file.read_text().replace("sealed_offline_s = 120.0", "sealed_offline_s = 1.0")
    write_atomic(file, text.encode())


def who(sealed: Checkpoint) -> set[str]:
    return {row["member"] for row in sealed.facts["contributions"]}


def test_nodes_killed_in_the_middle_and_the_digest_is_the_open_rounds_to_the_bit(
    tmp_path: Path,
) -> None:
    with net_of(tmp_path, rounds=2) as net:
        net.found()
        net.start()
        net.wait_for_phase(1, "keys")
        net.kill("north")  # comes back, with its secrets, in the same session
        net.start_node("north")
        net.wait_for("round_sealed", 1)
        impatient(net)
        net.wait_for_phase(2, "keys")
        net.kill("south")  # stays away: it drops out of the sum
        del net.processes["south"]
        everyone, net.members = net.members, {name: net.members[name] for name in NAMES[:2]}
        net.wait()
        net.members = everyone
        first, last = (read_checkpoint(net.aggregator_home / "rounds" / f) for f in FOLDERS)
        assert (who(first), who(last)) == (set(NAMES), {"east", "north"})
        reasons = [row["reason"] for row in last.facts["refused"]]
        assert reasons == [RefusalCode.DROPPED_OUT]
        counted = {1: set(NAMES), 2: {"east", "north"}}
        assert last.vector.digest == expected(net, counted)
        assert "Traceback" not in net.log("aggregator") + net.log("north") + net.log("east")


@pytest.mark.faults
@pytest.mark.parametrize("phase", ["keys", "shares", "mask", "agree", "reveal"])
def test_a_killed_aggregator_and_a_killed_node_lose_nothing(tmp_path: Path, phase: str) -> None:
    with net_of(tmp_path, rounds=2) as net:
        net.found()
        net.start()
        net.wait_for_phase(1, phase)
        net.kill("aggregator")
        net.kill("east")
        net.start_aggregator()
        net.start_node("east")
        net.wait()
        assert read_checkpoint(net.release).vector.digest == expected(
            net, {1: set(NAMES), 2: set(NAMES)}
        )

"""An update over a bad network: what is sent again when connections are cut, if it arrives.

A real federation of one node on loopback: `gobelin aggregator up`, and a node that is `gobelin node
run` but for the training, for which an addition of noise stands (see `exchange`). Between the two
is the fault-injecting proxy of `tests/faults/wire`: a rate for both ways together of each, and
every connection is reset after a number of bytes that is drawn uniformly up to --cut-mb.

`sent_again` is what passed the proxy upwards beyond the contribution's bytes, as a share of them:
TLS, polls and heartbeats included. `mb_again_a_reset` is the same a reset; an object is at most
5 MiB, and two are on their way until a node knows its link to be slow. `from_zero` counts
departures of the node's egress ledger after the first that sent half of the contribution or more:
begun from the beginning. Seconds are those of the whole round, base down and update up.

A 400 MB update at 1 Mbit/s takes 53 minutes each way: `--size 100 --mbit 1` is that. By default
it is 28 MB at 8 Mbit/s, so heartbeats and timeouts are less tried than they would be, and cuts come
as often for the bytes that are sent.

Writes bench/results/hard_network.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.aggregator_memory import RECIPE, SIZES
from bench.exchange import start_node
from bench.measure import write_result
from examples.loopback import Loopback
from gobelin.client.egress_ledger import LEAVING, LEFT, EgressLedger
from gobelin.client.home import NodeHome
from gobelin.server.home import AggregatorHome
from gobelin.shared.data.export import write_idx
from gobelin.shared.settings import write_settings
from tests.faults.wire import Faults, Wire

NODE = "north"
GIVE_UP_S = 4 * 3600.0
BYTES_OF_MBIT = 125_000


def main() -> None:
    """Run one round and report what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=7, choices=list(SIZES), help="M parameters")
    parser.add_argument("--mbit", type=float, default=8.0, help="each way")
    parser.add_argument("--cut-mb", type=float, default=14.0, help="sent by a connection at most")
    parser.add_argument("--codec", default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--give-up", type=float, default=GIVE_UP_S, help="seconds")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hard-network-"))
    try:
        found = one_round(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    goal = "completed, 0 restarts from byte 0"
    print(write_result("hard_network", {**vars(options), "goal": goal, **found}))
    print(json.dumps(found, indent=2))


def one_round(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The round's figures."""
    dim, depth = SIZES[options.size]
    recipe, data = folder / "bench.toml", folder / "data"
    recipe.write_text(RECIPE.format(dim=dim, depth=depth))
    images = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    write_idx(data, images, torch.zeros(4, dtype=torch.int64))
    faults = Faults(
        bytes_per_second=options.mbit * BYTES_OF_MBIT,
        reset_share=1.0,
        reset_within=int(1e6 * options.cut_mb),
    )
    with Loopback(
        folder / "net", {NODE: data}, str(recipe), 1, options=("--codec", options.codec)
    ) as net:
        net.found()
        home = AggregatorHome(net.aggregator_home)
        given = home.settings()
        policy = given.policy.model_copy(update={"collapse_gate": False})
        patient = given.rounds.model_copy(update={"deadline_s": options.give_up})
        changed = {"policy": policy, "rounds": patient}
        write_settings(home.settings_file, given.model_copy(update=changed))
        target = f"{given.network.host}:{given.network.port}"
        with Wire(target, faults, options.seed) as wire:
            file = net.node_home(NODE) / "node.toml"
            there = f'aggregator = "{wire.address}"'
            file.write_text(re.sub(r'aggregator = ".*"', there, file.read_text()))
            net.start_aggregator()
            net.wait_for("waiting", 1, 600)
            started = time.monotonic()
            net.processes[NODE] = start_node(net.node_home(NODE), folder / "node.log", 1)
            sealed = net.wait_for("round_sealed", 1, options.give_up)
            took = time.monotonic() - started
            traffic = wire.traffic
        told = departures(NodeHome(net.node_home(NODE)))
        again = traffic.up - told["payload_bytes"]
        return {
            "completed": True,
            "seconds": took,
            "vector_digest": sealed["vector_digest"],
            "connections": traffic.connections,
            "resets": traffic.resets,
            "wire_up_bytes": traffic.up,
            "wire_down_bytes": traffic.down,
            "sent_again": again / told["payload_bytes"],
            "mb_again_a_reset": again / 1e6 / max(1, traffic.resets),
            **told,
        }


def departures(home: NodeHome) -> dict[str, Any]:
    """What the egress ledger says of how the contribution left."""
    records = EgressLedger(home.egress_file).records()
    made = [row for row in records if row["kind"] == LEAVING and row["payload_bytes"]]
    numbers = {row["number"] for row in made}
    sent = [r["wire_bytes"] for r in records if r["kind"] == LEFT and r["of"] in numbers]
    payload = made[0]["payload_bytes"]
    return {
        "payload_bytes": payload,
        "departures": len(sent),
        "from_zero": sum(1 for size in sent[1:] if size >= payload / 2),
    }


if __name__ == "__main__":
    main()

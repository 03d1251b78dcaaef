"""Peak memory of the aggregator at P parameters and 2 … 16 nodes, against Flower's FedAvg.

Each figure is of one process of its own: Gobelin's round engine with its collapse gate, its courier
over Flower's Grid, deltas on disk, the merge, the outer step and sealed checkpoints; Flower's
FedAvg over the same Grid. The Grid is in the process and answers for the nodes: messages go out
deflated to Flower's objects, replies come in as objects and are inflated, as over the wire, with
vectors of random numbers. FedAvg's are split into tensors as a model has them.

What counts is anonymous memory (RssAnon), looked at from outside every few milliseconds, above what
the process has when everything is imported and nothing is begun. `hwm` is the kernel's own peak,
which counts pages of mapped files as well: they are the page cache's, and go when others need them.

Writes bench/results/aggregator_memory.json. Needs about 25 × P bytes of memory for FedAvg's 16
nodes (--flower-nodes leaves them out), and as many of disk under the temporary folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import write_result

READY = "ready"
RECIPE = """
name = "bench"
modalities.image = {{ kind = "image", image_size = 224, patch_size = 16 }}
trunk = {{ dim = {dim}, depth = {depth}, heads = 12 }}
projector = {{ hidden = 2304 }}
"""
SIZES = {  # million parameters, and the trunk's width and depth
    100: (768, 13),
    25: (384, 10),
    7: (192, 2),  # to see that the bench runs
}
TENSORS = 100


@dataclass(frozen=True)
class Peak:
    """Memory of one process, in bytes."""

    idle: int  # anonymous, when everything is imported
    anonymous: int  # the highest seen, above `idle`
    hwm: int  # the kernel's peak of all resident pages, above those at the start
    seconds: float


def main() -> None:
    """Measure every side at every number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=100, choices=list(SIZES), help="millions")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--flower-nodes", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--codecs", nargs="+", default=["fp32", "int4"])
    parser.add_argument("--outers", nargs="+", default=["sgd", "nesterov"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the aggregator")
    parser.add_argument("--name", default="aggregator_memory", help="of the result file")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help="for this script's own use")
    options = parser.parse_args()
    if options.child:
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        side, *arguments = options.child
        sides: dict[str, Callable[..., None]] = {"gobelin": gobelin_child, "flower": flower_child}
        sides[side](*arguments)
        return
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "bench.toml"
        dim, depth = SIZES[options.size]
        recipe.write_text(RECIPE.format(dim=dim, depth=depth))
        parameters = 0
        for codec, outer in itertools.product(options.codecs, options.outers):
            for nodes in options.nodes:
                home = Path(folder) / f"home-{codec}-{outer}-{nodes}"
                parameters = found_home(home, recipe, nodes, codec, outer, options.rounds)
                peak = watch(options.threads, "gobelin", str(home))
                shutil.rmtree(home)
                values |= figures(f"gobelin.{codec}.{outer}.{nodes}", peak, parameters)
        for nodes in options.flower_nodes:
            peak = watch(
                options.threads, "flower", str(parameters), str(nodes), str(options.rounds)
            )
            values |= figures(f"flower.{nodes}", peak, parameters)
    few, many = min(options.nodes), max(options.nodes)
    main_key = f"gobelin.{options.codecs[0]}.{options.outers[0]}"
    values |= {
        "parameters": parameters,
        "rounds": options.rounds,
        "nodes": options.nodes,
        "flower_nodes": options.flower_nodes,
        "headline": main_key,
        "threads": options.threads,
        "growth": values[f"{main_key}.{many}.peak"] / values[f"{main_key}.{few}.peak"],
        "vectors": max(values[f"{main_key}.{nodes}.vectors"] for nodes in options.nodes),
        "goal": "growth within 0.9 … 1.1, peak <= 3 vectors",
    }
    if options.flower_nodes:
        few, many = min(options.flower_nodes), max(options.flower_nodes)
        values["growth_flower"] = values[f"flower.{many}.peak"] / values[f"flower.{few}.peak"]
    print(write_result(options.name, values))


def figures(key: str, peak: Peak, parameters: int) -> dict[str, Any]:
    """Flat keys of one process, printed as they come."""
    found = {
        f"{key}.peak": peak.anonymous,
        f"{key}.vectors": peak.anonymous / (4 * parameters),
        f"{key}.vectors_with_idle": (peak.idle + peak.anonymous) / (4 * parameters),
        f"{key}.hwm": peak.hwm,
        f"{key}.hwm_vectors": peak.hwm / (4 * parameters),
        f"{key}.idle": peak.idle,
        f"{key}.seconds": peak.seconds,
    }
    print(key, f"{peak.anonymous / 1e6:.0f} MB, {found[f'{key}.vectors']:.2f} vectors", flush=True)
    return found


def watch(threads: int, *child: str) -> Peak:
    """Run one side in a process of its own and look at its memory from outside."""
    from gobelin.server.children import ALLOCATION

    command = [sys.executable, "-m", "bench.aggregator_memory", "--child", *child]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment |= ALLOCATION if child[0] == "gobelin" else {}
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line.strip() != READY:
            pass
        idle, peak = memory(process.pid), 0
        last = idle
        while process.poll() is None:
            last = memory(process.pid) or last
            peak = max(peak, last["RssAnon"])
            time.sleep(0.003)
    if process.returncode:
        raise RuntimeError(f"{' '.join(child)} ended with {process.returncode}")
    seconds = time.monotonic() - started
    hwm = last["VmHWM"] - idle["VmRSS"]
    return Peak(idle["RssAnon"], peak - idle["RssAnon"], hwm, seconds)


def memory(pid: int) -> dict[str, int]:
    """Resident memory of a process in bytes, by the kernel's names; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    rows = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "Vm")))
    return {key: int(value.split()[0]) * 1024 for key, value in rows.items() if "kB" in value}


# ---------------------------------------------------------------- the two sides, in their processes


@dataclass
class AnsweringGrid:
    """Flower's Grid, in this process: `answer` says what a node replies to a message."""

    keys: dict[int, bytes]  # node id → public key
    answer: Callable[[Any], Any]  # a Message to the RecordDict of its reply
    waiting: dict[str, Any] = field(default_factory=dict)

    def get_nodes(self) -> list[Any]:
        from flwr.proto.node_pb2 import NodeInfo

        return [
            NodeInfo(node_id=i, public_key=key, status="online") for i, key in self.keys.items()
        ]

    def get_node_ids(self) -> list[int]:
        return list(self.keys)

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """As HttpGrid does it; the bytes go nowhere."""
        from flwr.supercore.inflatable.inflatable_object import (
            get_all_nested_objects,
            no_object_id_recompute,
        )
        from flwr.supercore.inflatable.inflatable_utils import push_objects

        objects: dict[str, Any] = {}
        ids = []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                objects |= get_all_nested_objects(message)
                ids.append(message.object_id)
                self.waiting[message.object_id] = message
            push_objects(objects, lambda object_id, content: time.sleep(0.001))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """Each reply as HttpGrid gets it: from the contents of its objects."""
        from flwr.app import Message
        from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        replies = []
        for message_id in list(message_ids):
            asked = self.waiting.pop(message_id)
            reply = Message(self.answer(asked), reply_to=asked)
            reply_id, objects = reply.object_id, get_all_nested_objects(reply)
            del reply
            contents = {key: objects.pop(key).deflate() for key in list(objects)}
            replies.append(inflate_object_from_contents(reply_id, contents))
        return replies

    def send_and_receive(self, messages: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """All replies at once, as FedAvg asks for them."""
        return self.pull_messages(self.push_messages(messages))


def found_home(folder: Path, recipe: Path, nodes: int, codec: str, outer: str, rounds: int) -> int:
    """Found a federation of as many members as nodes; its number of parameters."""
    script = "\n".join(
        [
            "import sys",
            "from bench.aggregator_memory import found_here",
            "print(found_here(*sys.argv[1:]))",
        ]
    )
    arguments = [str(folder), str(recipe), str(nodes), codec, outer, str(rounds)]
    return int(subprocess.check_output([sys.executable, "-c", script, *arguments], text=True))


def found_here(folder: str, recipe: str, nodes: str, codec: str, outer: str, rounds: str) -> int:
    """In a process of its own, for it builds the model."""
    from gobelin.server.founding import Charter, found
    from gobelin.server.home import AggregatorHome
    from gobelin.server.roster import NodeEntry
    from gobelin.shared.keys import make_key, public_pem
    from gobelin.shared.signing import SigningKey, public_signing_pem

    charter = Charter(
        "bench",
        recipe,
        "127.0.0.1:9092",
        rounds={"rounds": int(rounds), "codec": codec, "min_members": int(nodes)},
        outer={"kind": outer},
    )
    founded = found(Path(folder), charter)
    home = AggregatorHome(Path(folder))
    roster = home.roster()
    for i in range(int(nodes)):
        pem = public_pem(make_key().public_key())
        key = SigningKey.generate()
        key.write(signing_key(Path(folder), i + 1))
        pem += public_signing_pem(key.public)
        roster = roster.admit(NodeEntry.of(f"member-{i}", f"node-{i}", pem, "this"))
    home.write_roster(roster)
    return int(founded["parameters"])


def signing_key(folder: Path, node_id: int) -> Path:
    """Where a node's signing key lies, by Flower's id of it."""
    return folder / f"node-{node_id}.key"


def gobelin_child(folder: str) -> None:
    """All rounds of a federation that was founded before."""
    import torch
    from flwr.app import RecordDict

    from gobelin.client.records import contribution_record
    from gobelin.client.spool import Spooled
    from gobelin.protocols.envelope import CONTRIBUTION
    from gobelin.protocols.messages import HEADER, PAYLOAD, Contribution, RoundPlan
    from gobelin.server.engine import GridCourier
    from gobelin.server.home import AggregatorHome
    from gobelin.server.rounds import RoundEngine
    from gobelin.shared.checkpoint import read_checkpoint
    from gobelin.shared.codec import Payload, codec_named
    from gobelin.shared.envelope import NEVER, seal
    from gobelin.shared.signing import SigningKey
    from gobelin.shared.vector import ParameterSchema

    home = AggregatorHome(Path(folder))
    shapes = json.loads(subprocess.check_output([sys.executable, "-c", SHAPES, folder], text=True))
    schema = ParameterSchema.of_shapes({name: tuple(shape) for name, shape in shapes.items()})
    generator = np.random.default_rng(0)

    def answer(message: Any) -> RecordDict:
        try:
            plan = RoundPlan.from_bytes(message.content[HEADER][PAYLOAD])
        except ValueError:  # the farewell
            return RecordDict()
        codec, segments = codec_named(plan.codec), {}
        for name, (start, end) in schema.segments.items():
            values = generator.standard_normal(end - start, np.float32) * np.float32(1e-3)
            segments[name] = codec.encode(torch.from_numpy(values))
        payload = Payload(schema, plan.codec, segments)
        made = Contribution(
            federation=plan.federation,
            round=plan.round,
            plan_digest=plan.digest,
            base_digest=plan.base_digest,
            delta_digest=payload.digest,
            local_steps=plan.local_steps,
            samples=1,
            seconds=0.0,
            codec=plan.codec,
        )
        i = message.metadata.dst_node_id
        member, node = f"member-{i - 1}", ids[i]
        signed = seal(
            signing[i], CONTRIBUTION, made, member=member, node=node, issued=0, expires=NEVER
        )
        return contribution_record(Spooled(made, payload, envelope=signed))

    keys = {i: n.public_key.encode() for i, n in enumerate(home.roster().nodes, start=1)}
    ids = {i: n.id for i, n in enumerate(home.roster().nodes, start=1)}
    signing = {i: SigningKey.load(signing_key(Path(folder), i)) for i in keys}
    print(READY, flush=True)
    RoundEngine(home, GridCourier(AnsweringGrid(keys, answer))).run()
    read_checkpoint(home.round_folder(home.settings().rounds.rounds))  # it is whole


SHAPES = """
import json, sys
from pathlib import Path
from gobelin.server.home import AggregatorHome
_, checkpoint = AggregatorHome(Path(sys.argv[1])).latest()
print(json.dumps({spec.name: spec.shape for spec in checkpoint.vector.schema.tensors}))
"""


def flower_child(parameters: str, nodes: str, rounds: str) -> None:
    """FedAvg's rounds, without evaluation."""
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg

    generator = np.random.default_rng(0)
    sizes = [len(part) for part in np.array_split(np.empty(int(parameters), np.bool_), TENSORS)]

    def vector() -> ArrayRecord:
        return ArrayRecord(
            {
                f"{i:03d}": Array(generator.standard_normal(size, np.float32))
                for i, size in enumerate(sizes)
            }
        )

    def answer(message: Any) -> RecordDict:
        return RecordDict({"arrays": vector(), "metrics": MetricRecord({"num-examples": 1})})

    keys = dict.fromkeys(range(1, int(nodes) + 1), b"")
    print(READY, flush=True)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(keys))
    strategy.start(AnsweringGrid(keys, answer), vector(), num_rounds=int(rounds))


if __name__ == "__main__":
    main()

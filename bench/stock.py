"""Stock Flower, the baseline of the exchange bench: SuperLink, SuperNodes, FedAvg.

The apps are named by a bundle without code, so `bench` has to be importable where they run. A
client's training is an addition; its seconds are reported and taken off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

SETTINGS = "BENCH_STOCK"  # environment: a JSON file with parameters, tensors, rounds, nodes
TRAINING = "training"  # metric: seconds a client spent on what is not exchange
NOISE = 1e-3

server, client = ServerApp(), ClientApp()


def settings() -> dict[str, Any]:
    """What the parent wrote for the apps' processes."""
    values: dict[str, Any] = json.loads(Path(os.environ[SETTINGS]).read_text())
    return values


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """FedAvg over the rounds; when each of them ended goes to a file, a line a round."""
    given = settings()
    generator = np.random.default_rng(0)
    sizes = [len(p) for p in np.array_split(np.empty(given["parameters"], bool), given["tensors"])]
    initial = ArrayRecord(
        {f"{i:03d}": Array(generator.standard_normal(n, np.float32)) for i, n in enumerate(sizes)}
    )

    def note(number: int, arrays: ArrayRecord) -> None:
        with Path(given["ended"]).open("a") as file:
            file.write(f"{number} {time.time()}\n")

    nodes = given["nodes"]
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid, initial, num_rounds=given["rounds"], evaluate_fn=note)


class Timed(FedAvg):
    """FedAvg that also keeps what clients say of their training."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        seconds = [
            float(reply.content["metrics"][TRAINING]) for reply in replies if not reply.has_error()
        ]
        with Path(settings()["trained"]).open("a") as file:
            file.write(f"{server_round} {len(seconds)} {max(seconds, default=0.0)}\n")
        return super().aggregate_train(server_round, replies)


@client.train()
def train(message: Message, context: Context) -> Message:
    """The same arrays, a little moved."""
    arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
    started = time.monotonic()
    generator = np.random.default_rng(int(context.node_id) % 2**32)
    moved = {
        name: values + generator.standard_normal(values.shape, np.float32) * np.float32(NOISE)
        for name, values in arrays.items()
    }
    spent = time.monotonic() - started
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(values) for name, values in moved.items()}),
            "metrics": MetricRecord({"num-examples": 1, TRAINING: spent}),
            "config": ConfigRecord(),
        }
    )
    return Message(content, reply_to=message)


# ---------------------------------------------------------------- the processes


@contextmanager
def stock(folder: Path, database: str, nodes: int, given: dict[str, Any]) -> Iterator[list[Any]]:
    """A SuperLink with TLS and its SuperNodes, with one run started; the processes, to be watched.

    `database` is a file for SQLite, or Flower's name for its memory.
    """
    from gobelin.server.supervisor import free_port
    from gobelin.shared.keys import write_authority

    folder.mkdir(parents=True)
    write_authority(folder, "stock", {"localhost", "127.0.0.1"})
    (folder / "stock.json").write_text(json.dumps(given))
    fleet, control = f"127.0.0.1:{free_port()}", free_port()
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(folder / "flower"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, sys.path))),
        "OMP_NUM_THREADS": str(given["threads"]),
        SETTINGS: str(folder / "stock.json"),
    }
    ca = folder / "ca.pem"
    link = [
        *("flower-superlink", "--database", database, "--disable-runtime-dependency-installation"),
        *("--ssl-ca-certfile", str(ca), "--ssl-certfile", str(folder / "server.pem")),
        *("--ssl-keyfile", str(folder / "server.key"), "--fleet-api-address", fleet),
        *("--host", "127.0.0.1", "--port", str(control)),
    ]
    node = ["flower-supernode", "--root-certificates", str(ca), "--superlink", fleet, "--port"]
    with (folder / "stock.log").open("ab") as log:

        def start(command: list[str]) -> Any:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

        processes = [start(link)]
        try:
            client = _control(control, ca)
            processes += [start([*node, str(free_port())]) for _ in range(nodes)]
            _start_run(client)
            yield processes
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                _wait(process)


def _wait(process: Any) -> None:
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _control(port: int, ca: Path) -> Any:
    """The SuperLink's Control API, once it answers."""
    import socket

    from flwr.supercore.control.control_http_client import ControlHttpClient

    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                break
        except OSError:
            time.sleep(0.1)
    return ControlHttpClient.from_server_address(
        f"127.0.0.1:{port}", False, ca.read_bytes(), interceptors=[]
    )


def _start_run(client: Any) -> None:
    import hashlib

    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    pyproject = """
[project]
name = "stock-bench"
version = "1.0.0"
description = "Names the bench's stock apps."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "gobelin"

[tool.flwr.app.components]
serverapp = "bench.stock:server"
clientapp = "bench.stock:client"
"""
    content = build_fab_from_files({"pyproject.toml": pyproject.encode()})[0]
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    client.StartRun(
        StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({}))
    )

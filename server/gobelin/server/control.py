"""The SuperLink's Control API, as the supervisor calls it.

With engine.py, uploads.py, records.py and superlink.py all of the aggregator that imports flwr; it
imports no tensors.
"""

from __future__ import annotations

import os

from gobelin.server.loopback import sparing_loopback

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # before flwr is imported: it reads them once
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.update(sparing_loopback(os.environ))  # for this process and all it starts

import hashlib

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab

from gobelin.server.children import Ports
from gobelin.server.home import AggregatorHome
from gobelin.server.roster import Roster
from gobelin.shared.keys import fingerprint


class Control:
    """The SuperLink's Control API, on loopback: register nodes, start and watch the run."""

    def __init__(self, home: AggregatorHome, ports: Ports) -> None:
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{ports.control}", False, (home.tls / "ca.pem").read_bytes(), interceptors=[]
        )

    def answer(self) -> None:
        """Ask for something that lies in the SuperLink's database; raises what httpx does."""
        self._client.ListNodes(ListNodesRequest())

    def sync_roster(self, roster: Roster) -> list[str]:
        """Make the SuperLink's registered nodes those of the roster; names of the changed ones."""
        wanted = {entry.id: entry for entry in roster.contributors}
        registered = {  # the SuperLink goes on listing those that it has let go
            fingerprint(info.public_key): info.node_id
            for info in self._client.ListNodes(ListNodesRequest()).nodes_info
            if info.status != NodeStatus.UNREGISTERED
        }
        changed = []
        for node in wanted.keys() - registered.keys():
            entry = wanted[node]
            key = entry.public_key.encode()
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=entry.name))
            changed.append(entry.name)
        for node in registered.keys() - wanted.keys():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=registered[node]))
            changed.append(node[:12])
        return sorted(changed)

    def start_run(self) -> int:
        """Stop runs an earlier supervisor left behind and start a fresh one; returns its id."""
        for run_id, run in self._client.ListRuns(ListRunsRequest()).run_dict.items():
            if run.status.status != "finished":
                self._client.StopRun(StopRunRequest(run_id=run_id))
        content = pointer_bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({}))
        return int(self._client.StartRun(request).run_id)

    def run_status(self, run_id: int) -> tuple[str, str]:
        """Status and sub-status of a run, such as ("finished", "completed")."""
        runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        return status.status, status.sub_status

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def pointer_bundle() -> bytes:
    """The bundle Flower wants of a run: no code, it only names our installed apps."""
    pyproject = """
[project]
name = "gobelin-pointer"
version = "1.0.0"
description = "Names the installed Gobelin apps; carries no code."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "gobelin"

[tool.flwr.app.components]
serverapp = "gobelin.server.engine:app"
clientapp = "gobelin.client.link:app"
"""
    content: bytes = build_fab_from_files({"pyproject.toml": pyproject.encode()})[0]
    return content

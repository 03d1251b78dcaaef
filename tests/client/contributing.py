"""A contributor in one process: its home, its plans, and what it makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeSettings, NodeStatus, found_node
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.data.export import write_idx
from gobelin.shared.keys import write_authority
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")
STEPS = 3
BASE = ParameterVector.of(build_jepa(RECIPE, seed=0))


def home_at(folder: Path, node: str = "north", **compute: Any) -> NodeHome:
    """A node home with 40 private images of its own."""
    if not (folder / "data").exists():
        pixels = np.random.default_rng(3).integers(0, 256, (40, 1, 28, 28), dtype=np.uint8)
        write_idx(folder / "data", torch.from_numpy(pixels), torch.zeros(40, dtype=torch.int64))
        write_authority(folder / "tls", "fed", ["localhost"])
    settings = NodeSettings.model_validate(
        {
            "member": node,
            "node": node,
            "aggregator": "host:9092",
            "data": {"path": str(folder / "data")},
            "compute": {"device": "cpu", "threads": 1, **compute},
        }
    )
    return found_node(folder / f"home-{node}-{len(compute)}", settings, folder / "tls" / "ca.pem")


def in_spool(node: Contributor, plan: RoundPlan, *given: Any, **more: Any) -> Spooled:
    """What `prepare` makes of a plan, written."""
    prepared = node.prepare(plan, *given, **more)
    node.flush()
    return prepared


class Node:
    """A contributor that counts the steps it trains."""

    def __init__(self, home: NodeHome) -> None:
        self.statuses: list[NodeStatus] = []
        self.contributor = Contributor(home, self.statuses.append)

    def __call__(self, plan: RoundPlan, base: ParameterVector) -> Spooled:
        return in_spool(self.contributor, plan, base.segments())


def plan(number: int, base: ParameterVector, **changes: Any) -> RoundPlan:
    made = RoundPlan(
        federation="fed",
        round=number,
        rounds=4,
        recipe=RECIPE.canonical(),
        schema_digest=base.schema.digest,
        base_digest=base.digest,
        local_steps=STEPS,
        seed=7,
        deadline_s=60.0,
    )
    return dataclasses.replace(made, **changes)


def rounds_of(node: Node, count: int) -> list[Spooled]:
    """Rounds 1 to `count` of a federation of this one node."""
    base, done = BASE, []
    for number in range(1, count + 1):
        done.append(node(plan(number, base), base))
        base = base + done[-1].delta
    return done

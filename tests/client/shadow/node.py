"""A node with a shadow, in one process: a contributor, its plans, and time between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gobelin.client.contributor import Contributor
from gobelin.client.home import NodeHome, NodeSettings, NodeStatus, found_node
from gobelin.client.shadow.record import Record, read_record
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.data.export import write_idx
from gobelin.shared.keys import write_authority
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from tests.client.contributing import in_spool

RECIPE = load_recipe("toy")
STEPS = 3
BASE = ParameterVector.of(build_jepa(RECIPE, seed=0))
SAMPLES = 60
SHADOW = {"compute": 0.5, "held_out": 0.3}


def images(count: int = SAMPLES, classes: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, of classes that brightness tells."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, classes, count)
    pixels = rng.integers(0, 120, (count, 1, 28, 28)) + 120 * labels[:, None, None, None]
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64))


def home_at(
    folder: Path,
    shadow: dict[str, Any] | None,
    *,
    data: Path | None = None,
    classes: int = 1,
    **more: Any,
) -> NodeHome:
    """A node home with private images."""
    data = data or folder / "data"
    if not data.exists():
        write_idx(data, *images(classes=classes))
    if not (folder / "tls").exists():
        write_authority(folder / "tls", "fed", ["localhost"])
    settings = {
        "member": "north",
        "node": "north",
        "aggregator": "host:9092",
        "data": {"path": str(data)},
        "compute": {"device": "cpu", "threads": 1},
        "shadow": shadow,
        **more,
    }
    count = len(list(folder.glob("home-*")))
    return found_node(
        folder / f"home-{count}", NodeSettings.model_validate(settings), folder / "tls" / "ca.pem"
    )


def plan_of(number: int, base: ParameterVector, **changes: Any) -> RoundPlan:
    """A round's plan."""
    told: dict[str, Any] = {
        "federation": "fed",
        "round": number,
        "rounds": 8,
        "recipe": RECIPE.canonical(),
        "schema_digest": base.schema.digest,
        "base_digest": base.digest,
        "local_steps": STEPS,
        "seed": 7,
        "deadline_s": 60.0,
    }
    return RoundPlan(**{**told, **changes})


class Node:
    """A contributor in a federation of itself, whose clock stands still for the shadow: it may
    spend what the federated training took, and never does."""

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self.statuses: list[NodeStatus] = []
        self.start()

    def start(self) -> None:
        """As a new process would."""
        self.contributor = Contributor(self.home, self.statuses.append)
        if self.contributor._shadow is not None:
            self.contributor._shadow._clock = lambda: 0.0

    def round(self, number: int, base: ParameterVector, **changes: Any) -> Spooled:
        """Answer a round's plan."""
        return in_spool(self.contributor, plan_of(number, base, **changes), base.segments())

    def rest(self, called: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the next plan, and for what was written."""
        worked = self.contributor.rest(called)
        assert self.contributor._shadow is not None
        self.contributor._shadow.settle()
        return worked

    def record(self) -> Record:
        """What is on disk."""
        record = read_record(self.home.shadow)
        assert record is not None
        return record


def after(pieces: int) -> Callable[[], bool]:
    """Called for after so many looks."""
    looks = itertools.count()
    return lambda: next(looks) >= pieces


def rounds(node: Node, count: int, rest: bool = True) -> list[Spooled]:
    """Rounds 1 to `count`, with time between them."""
    base, done = BASE, []
    for number in range(1, count + 1):
        done.append(node.round(number, base))
        base = base + done[-1].delta
        if rest:
            node.rest()
    return done
